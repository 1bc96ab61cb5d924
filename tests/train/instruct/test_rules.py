"""Which answers may be used, and what their author is told of the others."""

import json
import time
from dataclasses import asdict

import pytest

from agvas_train.data.instruct.rules import Fields, Refused, cues, find_faults, read_answer
from agvas_train.data.synth import generate

GOOD = {
    "exists": True,
    "Expectation": "The bottle's rim should be round and even.",
    "Observation": "A small bright chip breaks the rim at the upper left.",
    "Diagnosis": "The missing material breaks the round outline, which points to a knock.",
    "Summary": "The defect is a small bright chip at the upper left of the rim, as shown in [NOR][ANO][SEG].",
    "Explanation": "Normally, it is round. However, a chip breaks it. Therefore, it is broken. In conclusion, a chip.",
}
NORMAL = GOOD | {"exists": False, "Observation": "The rim is even.", "Diagnosis": "Nothing is missing.", "Summary": ""}


def faults(**changed: object) -> list[str]:
    return find_faults(Fields(**(GOOD | changed)), True)


@pytest.mark.parametrize("text", ["small" + "es" * 200 + "!", "." * 200_000, ". " + " " * 200_000])
def test_a_long_text_is_checked_in_no_time(text: str):
    begun = time.monotonic()
    faults(Observation=text)
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("word", ["thickenings", "differently", "unevenness", "darkened", "discolouration"])
def test_words_with_several_endings_are_cues(word: str):
    assert len(cues(f"There is {word}.")) == 1


def test_a_good_answer_has_no_faults():
    assert faults() == []
    assert find_faults(Fields(**NORMAL), False) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"exists": False}, '"exists" is false, but there is a defect'),
        ({"Diagnosis": " "}, "Diagnosis is empty"),
        ({"Summary": ""}, "Summary is empty"),
        ({"Summary": "A chip at the rim."}, "exactly once"),
        ({"Summary": "A chip at the rim, [NOR] [ANO] [SEG]."}, "exactly once"),
        ({"Summary": "A chip, [NOR][ANO][SEG], at [NOR][ANO][SEG]."}, "exactly once"),
        ({"Summary": "A chip, [NOR][ANO][SEG], at [seg]."}, "exactly once"),
        ({"Explanation": "A chip, [NOR][ANO][SEG]."}, "Explanation holds an anchor"),
        ({"Observation": "There is a flaw."}, "at least two visual cues"),
        ({"Observation": "It is small and tiny."}, "found size"),
        ({"Diagnosis": "One. Two. Three. Four."}, "Diagnosis has 4 sentences"),
        ({"Diagnosis": "The green box holds a chip."}, '"green box"'),
        ({"Diagnosis": "The bounding-box holds a chip."}, '"bounding-box"'),
        ({"Diagnosis": "As the Ground Truth says."}, '"Ground Truth"'),
        ({"Diagnosis": "The masked part is broken."}, '"masked"'),
        ({"Diagnosis": "It is annotated as broken."}, '"annotated"'),
        ({"Diagnosis": "Unlike in the normal image, it is broken."}, '"normal image"'),
        ({"Diagnosis": "Unlike the reference, it is broken."}, '"the reference"'),
        ({"Diagnosis": "In Image B it is broken."}, '"Image B"'),
        ({"Diagnosis": "The green regions are broken."}, '"green regions"'),
    ],
)
def test_each_rule_is_checked_and_named(changed: dict[str, object], said: str):
    found = faults(**changed)
    assert any(said in fault for fault in found), found


@pytest.mark.parametrize(
    "text",
    ["The green circuit board is broken.", "The box's lid is torn.", "It differs from what is normal in this image."],
)
def test_words_that_only_look_like_forbidden_ones_pass(text: str):
    assert faults(Diagnosis=text) == []


def test_a_normal_image_has_no_defect_and_no_anchors():
    assert find_faults(Fields(**GOOD), False) == ['"exists" is true, but there is no defect in it']
    [fault] = find_faults(Fields(**(NORMAL | {"Summary": "It is fine, [NOR][ANO][SEG]."})), False)
    assert "Summary holds an anchor" in fault


@pytest.mark.parametrize(
    "around",
    [
        "<RESPONSE_JSON>{}</RESPONSE_JSON>",
        "{}",
        "```json\n{}\n```",
        "I think ...\n<RESPONSE_JSON>\n```\n{}\n```</RESPONSE_JSON>",
    ],
)
def test_the_json_is_found(around: str):
    assert read_answer(around.replace("{}", json.dumps(GOOD)), True) == Fields(**GOOD)


def test_of_several_blocks_the_last_counts():
    blocks = [f"<RESPONSE_JSON>{text}</RESPONSE_JSON>" for text in ('{"draft": 1}', json.dumps(GOOD))]
    assert read_answer(" or rather ".join(blocks), True) == Fields(**GOOD)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not one JSON block"),
        ("The bottle is broken.", "not one JSON block"),
        ("<RESPONSE_JSON>" + json.dumps(GOOD)[:90], "cut off"),
        (json.dumps(GOOD).replace("}", ",}"), "not one JSON block"),
        ("[]", "object"),
        (json.dumps(GOOD | {"exists": "true"}), 'field "exists"'),
        (json.dumps(GOOD | {"Summary": None}), 'field "Summary"'),
        (json.dumps(GOOD | {"Confidence": 0.9}), 'field "Confidence"'),
        (json.dumps({name: text for name, text in GOOD.items() if name != "Diagnosis"}), 'field "Diagnosis"'),
    ],
)
def test_what_is_no_such_json_is_refused(text: str, said: str):
    with pytest.raises(Refused, match=said):
        read_answer(text, True)


def test_cues_are_counted_by_kind():
    assert cues("A dark, jagged scratch at the top.") == ["location", "colour or brightness", "shape"]
    assert cues("It is damaged.") == []


def test_the_synthetic_captions_obey_the_rules():
    captions = [asdict(generate(11, index).caption) for index in range(40)]
    assert {caption["exists"] for caption in captions} == {True, False}
    assert [find_faults(Fields(**caption), caption["exists"]) for caption in captions] == [[]] * 40
