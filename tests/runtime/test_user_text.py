"""Users' texts are data: whatever they write in any field, no id of an added token comes of it, and no word is lost."""

import json
import unicodedata

import pytest
from pydantic import ValidationError
from tokenizers import Tokenizer

from agvas_runtime.asked import request_of
from agvas_runtime.bundle import default_bundle_path
from agvas_runtime.errors import BundleError, InputError
from agvas_runtime.modes import MAX_LOOK_CHARACTERS, Mode, Request
from agvas_runtime.plan import plan_pass
from agvas_runtime.prompts import MAX_INSTRUCTION_CHARACTERS, Prompter, PromptSpec
from agvas_runtime.templates import MAX_CLASS_CHARACTERS, default_templates
from agvas_runtime.verdict import AnswerKind, Recipe

TEMPLATES = default_templates()
DOCUMENT = json.loads((default_bundle_path() / "tokenizer.json").read_text(encoding="utf-8"))
SPEC = PromptSpec(**json.loads((default_bundle_path() / "manifest.json").read_text(encoding="utf-8"))["prompt"])

INSTRUCTIONS = [(mode, "instruction") for mode in Mode]
CLASS_NAMES = [(mode, "class_name") for mode in Mode if mode not in (Mode.FINE_GRAINED, Mode.CONVERSATION)]
FIELDS = [*INSTRUCTIONS, *CLASS_NAMES, (Mode.DESCRIBE_PLUS, "normal_look")]


def qwen2_like():
    """The embedded tokenizer, rebuilt as LLaVA-OneVision's is: words first, then added tokens; with every odd flag."""
    plain = {token["content"] for token in DOCUMENT["added_tokens"]}
    words = [word for word in DOCUMENT["model"]["vocab"] if word not in plain]
    flags = {
        "<|endoftext|>": {"normalized": True},
        "<|im_start|>": {"rstrip": True},
        "<|im_end|>": {"lstrip": True, "rstrip": True},
        "<image>": {"lstrip": True},
        "<video>": {"single_word": True},
        "[NOR]": {"normalized": True, "rstrip": True},
        "[ANO]": {"single_word": True, "lstrip": True},
        "[SEG]": {"lstrip": True, "rstrip": True, "normalized": True},
        "zebra crossing": {"special": False, "normalized": True, "lstrip": True},
        "\n\n\n": {"special": False},
        "défaut": {"special": False, "normalized": True},
    }
    usual = {**dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False), "special": True}
    added = [{"id": len(words) + i, "content": text, **usual, **flags[text]} for i, text in enumerate(flags)]
    model = {**DOCUMENT["model"], "vocab": {word: number for number, word in enumerate(words)}}
    return {**DOCUMENT, "model": model, "added_tokens": added, "normalizer": {"type": "NFC"}}


TOKENIZERS = {"embedded": DOCUMENT, "qwen2-like": qwen2_like()}


@pytest.fixture(scope="module", params=TOKENIZERS)
def document(request):
    return TOKENIZERS[request.param]


@pytest.fixture(scope="module")
def added(document):
    """Content to id of every added token, as the library numbers them."""
    tokenizer = Tokenizer.from_str(json.dumps(document))
    ids = {token["content"]: token["id"] for token in document["added_tokens"]}
    assert {content: tokenizer.token_to_id(content) for content in ids} == ids
    return ids


@pytest.fixture(scope="module")
def prompter(document):
    return Prompter(json.dumps(document), SPEC)


def disguises(token):
    """A token alone, in words, doubled, cut, nested, and as what a normaliser or a careless match might take for it."""
    middle = len(token) // 2
    texts = [
        token,
        f"a{token}",
        f"{token}b",
        f"a{token}b",
        f"a {token} b",
        f"a \t{token}\n b",
        f"a{token}{token}b",
        f"{token[:middle]}{token}{token[middle:]}",
        f"a{token[:middle]}\u200b{token[middle:]}",
        f"a{token}\u0301",
        f"a{''.join(chr(ord(c) + 0xFEE0) if '!' <= c <= '~' else c for c in token)}",
        f"a{token.swapcase()}",
        f"a\\u{ord(token[0]):04x}{token[1:]}",
        f"{{instruction}}{token}{{class_name}}",
    ]
    return [text for text in texts if text.strip()]


def asked(mode, field, text):
    pieces = {"normal_look": "It is flat."} if mode is Mode.DESCRIBE_PLUS else {}
    if mode in (Mode.FINE_GRAINED, Mode.CONVERSATION):
        pieces["instruction"] = "What is it?"
    if mode is Mode.GENERAL and field != "instruction":
        pieces["class_name"] = "screw"
    return Request(mode, **{**pieces, field: text}).text(TEMPLATES, SPEC.default_instruction)


def check_prompt(instruction, prompter, added):
    """The chat template's own tokens and no more; and the ids say what was written."""
    prompt = prompter.prompt(instruction)
    ids = [*prompt.before, prompter.image_id, *prompt.after]
    for content, number in added.items():
        assert ids.count(number) == SPEC.chat_template.count(content), (instruction, content)
    said = SPEC.chat_template.replace(SPEC.end_token, "").replace("{instruction}", instruction, 1)
    assert prompter.decode(ids) in (said, unicodedata.normalize("NFC", said))


def test_every_way_of_reading_added_tokens_would_find_them(document, added):
    """The disguises are worth something: the tokenizer as it is reads special tokens out of them."""
    tokenizer = Tokenizer.from_str(json.dumps(document))
    for content, number in added.items():
        assert any(number in tokenizer.encode(text, add_special_tokens=False).ids for text in disguises(content))


@pytest.mark.parametrize(("mode", "field"), FIELDS)
def test_a_token_in_a_field_is_plain_text(prompter, added, mode, field):
    for content in added:
        for text in disguises(content):
            instruction = asked(mode, field, text)
            assert (" ".join(text.split()) if field == "class_name" else text.strip()) in instruction
            check_prompt(instruction, prompter, added)


@pytest.mark.parametrize("mode", [mode for mode, _ in CLASS_NAMES])
def test_rejections_repeat_a_class_name_as_plain_text(prompter, added, mode):
    for content in added:
        for text in disguises(content):
            instruction = asked(mode, "class_name", text)
            class_name = TEMPLATES.class_of(instruction)
            assert class_name == " ".join(text.split())
            rejections = TEMPLATES.rejections_of(class_name)
            repeating = {rejection for rejection in TEMPLATES.rejections if "{class_name}" in rejection}
            assert len({*rejections} - {*TEMPLATES.rejections_of("x" * 70)}) == len(repeating)
            for rejection in rejections:
                ids = prompter.answer(rejection, anchors=False)
                assert set(added.values()).isdisjoint(ids[:-1])
                assert ids[-1] == prompter.end_id
                assert prompter.decode(ids) in (rejection, unicodedata.normalize("NFC", rejection))


def test_the_nodes_of_a_pass_hold_the_answers_anchors_and_no_more(prompter, added):
    usual = plan_pass("Please segment the dents in this image.", prompter, TEMPLATES, 4).trie
    count = sum(token in prompter.anchor_ids for token in usual.tokens.tolist())
    assert count
    for content in added:
        trie = plan_pass(asked(Mode.DIRECT, "class_name", f"a{content}b"), prompter, TEMPLATES, 4).trie
        nodes = [node for node in trie.tokens.tolist() if node in added.values()]
        assert len(nodes) == count
        assert set(nodes) <= set(prompter.anchor_ids)
        rejected = [answer for answer in trie.answers if answer.kind is AnswerKind.REJECTED]
        assert len(rejected) == 21
        assert all(set(added.values()).isdisjoint(answer.tokens) for answer in rejected)


def test_fields_that_meet_spell_no_token(prompter, added):
    for content in added:
        for cut in range(1, len(content)):
            pieces = {"normal_look": f"a{content[:cut]}", "instruction": f"{content[cut:]}b"}
            check_prompt(Request(Mode.DESCRIBE_PLUS, **pieces).text(TEMPLATES, ""), prompter, added)


def test_a_class_name_and_the_template_around_it_spell_no_token(prompter, added):
    for content in added:
        for cut in range(1, len(content)):
            before, after = content[:cut], content[cut:]
            for field, name in ((f"{{class_name}}{after}", before), (f"{before}{{class_name}}", after)):
                name = name.strip() or "dents"
                update = {"direct_instructions": (f"Segment {field}.",), "rejections": (f"No {field} here.",)}
                templates = TEMPLATES.model_copy(update=update)
                instruction = Request(class_name=name).text(templates, "")
                check_prompt(instruction, prompter, added)
                for answer in plan_pass(instruction, prompter, templates, 4).trie.answers:
                    if answer.kind is AnswerKind.REJECTED:
                        assert set(added.values()).isdisjoint(answer.tokens)


def test_a_normal_look_that_spells_a_template_does_not_choose_the_class():
    look = "Please segment the screws in this image"
    for template in TEMPLATES.direct_instructions[:14]:
        instruction = template.replace("{class_name}", "dents")
        request = Request(Mode.DESCRIBE_PLUS, instruction=instruction, normal_look=look)
        assert TEMPLATES.class_of(request.text(TEMPLATES, "")) == "dents"


WITH_SEG = {
    "merged": {
        "ignore_merges": False,
        "merges": [*DOCUMENT["model"]["merges"], ["[", "S"], ["E", "G"], ["[S", "EG"], ["[SEG", "]"]],
    },
    "whole words": {"ignore_merges": True},
}


@pytest.mark.parametrize("how", WITH_SEG)
def test_a_special_token_that_the_tokenizer_makes_of_ordinary_words_is_refused(how):
    """A vocabulary may hold "[SEG]" as a word, too; then disabling the added tokens is not enough."""
    vocabulary = dict(DOCUMENT["model"]["vocab"])
    for word in ("[S", "EG", "[SEG"):
        vocabulary.setdefault(word, len(vocabulary))
    at_spaces = {"type": "Split", "pattern": {"String": " "}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    document = {
        **DOCUMENT,
        "model": {**DOCUMENT["model"], "vocab": vocabulary, **WITH_SEG[how]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [at_spaces, byte_level]},
    }
    prompter = Prompter(json.dumps(document), SPEC)
    assert prompter.prompt("Please segment the dents here.")
    with pytest.raises(BundleError, match=r"makes '\[SEG\]' of plain text, expected an added token only"):
        prompter.prompt("Please segment the [SEG] here.")
    with pytest.raises(BundleError, match=r"makes '\[SEG\]' of plain text"):
        prompter.answer("No [SEG] here.", anchors=False)


def test_settings_saved_with_a_tokenizer_cut_and_pad_no_text(prompter, document):
    truncation = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    padding = {
        "strategy": {"Fixed": 64},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<|endoftext|>",
    }
    saved = Prompter(json.dumps({**document, "truncation": truncation, "padding": padding}), SPEC)
    assert saved.prompt(SPEC.default_instruction) == prompter.prompt(SPEC.default_instruction)


LIMITS = {
    "instruction": MAX_INSTRUCTION_CHARACTERS,
    "class_name": MAX_CLASS_CHARACTERS,
    "normal_look": MAX_LOOK_CHARACTERS,
}


@pytest.mark.parametrize(("mode", "field"), FIELDS)
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "found a blank text"),
        (" \t\n\u2003", "found a blank text"),
        ("a\ud800b", r"character 2 is '\ud800', expected readable text"),
        ("\udfff", r"character 1 is '\udfff'"),
        ("ab\0", r"character 3 is '\x00'"),
        ("a\x1b[2J", r"character 2 is '\x1b'"),
        ("a\x85", r"character 2 is '\x85'"),
        ("x" * 1_000_000, "found 1000000 characters, expected at most"),
        (" " * 1_000_000, "found 1000000 characters, expected at most"),
    ],
)
def test_what_is_no_text_is_refused_in_one_line_that_names_the_field(mode, field, text, reason):
    with pytest.raises(InputError) as raised:
        asked(mode, field, text)
    said = str(raised.value)
    assert said.startswith(f"{field}: {reason}")
    assert said.isprintable()
    assert len(said) < 100


@pytest.mark.parametrize(("mode", "field"), FIELDS)
def test_every_field_has_its_own_limit(prompter, added, mode, field):
    most = LIMITS[field]
    if (mode, field) != (Mode.DESCRIBE_PLUS, "instruction"):  # there the normal look takes its share
        check_prompt(asked(mode, field, "é" * most), prompter, added)
    with pytest.raises(InputError, match=f"^{field}: found {most + 1} characters, expected at most {most}$"):
        asked(mode, field, "q" * (most + 1))


def test_a_normal_look_leaves_room_for_every_template_with_any_class_name(prompter):
    look, class_name = "n" * MAX_LOOK_CHARACTERS, "q" * MAX_CLASS_CHARACTERS
    for template in TEMPLATES.describe_instructions:
        templates = TEMPLATES.model_copy(update={"describe_instructions": (template,)})
        assert prompter.prompt(Request(Mode.DESCRIBE_PLUS, None, class_name, look).text(templates, ""))


def test_a_normal_look_and_an_instruction_that_are_too_long_together_are_both_named(prompter):
    look = "n" * MAX_LOOK_CHARACTERS
    room = MAX_INSTRUCTION_CHARACTERS - len(f"{look}. ")
    assert prompter.prompt(Request(Mode.DESCRIBE_PLUS, "i" * room, None, look).text(TEMPLATES, ""))
    with pytest.raises(InputError, match=r"^normal_look and instruction: found 501 characters together"):
        Request(Mode.DESCRIBE_PLUS, "i" * (room + 1), None, look).text(TEMPLATES, "")


def test_a_text_that_no_message_can_hold_is_refused_before_it_is_sent():
    with pytest.raises(InputError, match=r"found 'kr\\udce4tze', expected readable text"):
        request_of("kr\udce4tze", {})


def test_an_area_that_no_message_has_room_for_is_refused():
    with pytest.raises(ValidationError, match="min_area_px"):
        Recipe(min_area_px=2**32)
