"""Tokenizers with the anchors in them: the user's own, extended; and the tiny preset's own, byte-level BPE with Qwen2's
splitting rule, trained on the method's sentences.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from agvas_runtime.errors import InputError
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


class AnchoredTokenizer(NamedTuple):
    """A tokenizer that has the anchors."""

    tokenizer_json: str
    anchor_ids: tuple[int, ...]
    """Of `ANCHOR_TOKENS`; those from `first_free` on are new, the others were there before."""
    first_free: int
    """The first id that had no token before."""


def read_tokenizer(folder: Path) -> str:
    """The text of a folder's `tokenizer.json`; raises InputError when there is none."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise InputError(f"{folder}: no tokenizer.json in it, expected the model's tokenizer")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as UTF-8 text: {error}") from None


def add_anchors(tokenizer_json: str) -> AnchoredTokenizer:
    """Append the anchors that a tokenizer lacks, as special added tokens at its next free ids; nothing else changes.

    Args:
        tokenizer_json: the text of a `tokenizer.json` that has the tokens of LLaVA-OneVision's chat template.

    Raises:
        InputError: it cannot be read, lacks one of those tokens, or would make one of them from a user's plain text.
    """
    try:
        document = json.loads(tokenizer_json)
        first_free = max(Tokenizer.from_str(tokenizer_json).get_vocab(with_added_tokens=True).values()) + 1
        held = {token["content"]: int(token["id"]) for token in document["added_tokens"]}
    except Exception as error:  # tokenizers raises bare Exception
        raise InputError(f"tokenizer.json: cannot be read: {' '.join(str(error).split())[:200]}") from None
    for token in (IMAGE, TURN_START, TURN_END):
        if token not in held:
            raise InputError(f"tokenizer.json: no added token {token}, expected the tokenizer of LLaVA-OneVision")
    new = [token for token in ANCHOR_TOKENS if token not in held]
    held |= {token: first_free + number for number, token in enumerate(new)}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    document["added_tokens"] += [{"id": held[token], "content": token, **plain, "special": True} for token in new]
    extended = json.dumps(document, ensure_ascii=False) if new else tokenizer_json
    _check_added(document, held, extended)
    return AnchoredTokenizer(extended, tuple(held[token] for token in ANCHOR_TOKENS), first_free)


def _check_added(document: dict[str, object], held: dict[str, int], extended: str) -> None:
    """The library numbers added tokens by itself, and a vocabulary may hold a token's text as an ordinary word too."""
    tokenizer = Tokenizer.from_str(extended)
    words_only = Tokenizer.from_str(json.dumps({**document, "added_tokens": []}))
    for token in (IMAGE, TURN_START, TURN_END, *ANCHOR_TOKENS):
        if (found := tokenizer.token_to_id(token)) != held[token]:
            raise InputError(
                f"tokenizer.json: {token} has id {held[token]}, the tokenizers library reads it as {found}"
            )
        if held[token] in words_only.encode(token, add_special_tokens=False).ids:
            raise InputError(
                f"tokenizer.json: {token} is an ordinary word of the vocabulary, expected an added token only"
            )
