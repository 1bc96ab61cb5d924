"""The tiny preset's own tokenizer: byte-level BPE with Qwen2's splitting rule, trained on the method's sentences."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from agvas_runtime.prompts import PromptSpec
from agvas_runtime.templates import CLASS_FIELD, Templates

IMAGE, TURN_START, TURN_END, PADDING = "<image>", "<|im_start|>", "<|im_end|>", "<|endoftext|>"
ANCHOR_TOKENS = ("[NOR]", "[ANO]", "[SEG]")

CHAT_TEMPLATE = f"{TURN_START}user {IMAGE}\n{{instruction}}{TURN_END}{TURN_START}assistant\n"
"""One turn as LLaVA-OneVision's Qwen2 models are prompted."""

# words with at most one leading space or sign, single digits, punctuation runs, line ends, other white space
_SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def prompt_spec(templates: Templates) -> PromptSpec:
    """The prompt of models that speak LLaVA-OneVision's chat template."""
    return PromptSpec(
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE,
        end_token=TURN_END,
        anchors=ANCHOR_TOKENS,
        default_instruction=templates.default_instruction,
    )


def template_sentences(templates: Templates) -> list[str]:
    """Every instruction, answer and rejection, once for each class name."""
    sentences = []
    for template in (
        *templates.direct_instructions,
        *templates.describe_instructions,
        *templates.explain_instructions,
        *templates.direct_answers,
        *templates.rejections,
    ):
        names = dict.fromkeys(templates.class_names) if CLASS_FIELD in template else [""]
        sentences.extend(template.replace(CLASS_FIELD, name) for name in names)
    return sentences


def train_tokenizer(corpus: Iterable[str], *, vocabulary_size: int) -> str:
    """Train the tokenizer on a corpus; returns the text of a `tokenizer.json`. Same corpus, same tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [PADDING, TURN_START, TURN_END, IMAGE, *ANCHOR_TOKENS]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special],
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer.to_str(pretty=True)
