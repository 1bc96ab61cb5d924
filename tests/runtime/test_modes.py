"""What each mode says to the model, and how its answers are read."""

import pytest

from agvas_runtime.errors import InputError
from agvas_runtime.modes import Mode, Request, anchor_groups, read_answer
from agvas_runtime.segmenter import Segmenter
from agvas_runtime.templates import default_templates
from agvas_runtime.verdict import AnswerKind

NOR, ANO, SEG = 101, 102, 103
DEFAULT = "Please segment the anomalies in this image."


def text(*pieces, **named):
    return Request(*pieces, **named).text(default_templates(), DEFAULT)


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ({}, DEFAULT),
        ({"class_name": "dents"}, "Please segment the dents in this image."),
        ({"class_name": " bent\n pins "}, "Please segment the bent pins in this image."),
        ({"instruction": "Is it broken?"}, "Is it broken?"),
        ({"mode": Mode.DESCRIBE}, "What are anomalies in this image? Please describe the anomalies and then output the "
         "corresponding segmentation map."),
        ({"mode": Mode.DESCRIBE_PLUS, "normal_look": " Wood has an even grain ", "instruction": "Describe it."},
         "Wood has an even grain. Describe it."),
        ({"mode": Mode.EXPLAIN, "class_name": "cracks"},
         "Please segment the cracks in this image and explain why they are cracks."),
        ({"mode": Mode.FINE_GRAINED, "instruction": "Segment the smallest dent."}, "Segment the smallest dent."),
        ({"mode": Mode.CONVERSATION, "instruction": "What is shown?"}, "What is shown?"),
        ({"mode": Mode.GENERAL, "class_name": "screw"}, "Please segment the screw in this image."),
        ({"mode": Mode.GENERAL, "instruction": "Segment the screw on the left."}, "Segment the screw on the left."),
    ],
)  # fmt: skip
def test_the_instruction_of_a_mode(pieces, expected):
    assert text(**pieces) == expected


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ({"mode": Mode.DESCRIBE_PLUS}, "mode describe-plus needs normal_look, a sentence"),
        ({"mode": Mode.DESCRIBE_PLUS, "normal_look": " "}, "normal_look: found a blank text"),
        ({"mode": Mode.DESCRIBE, "normal_look": "Flat."}, "mode describe takes no normal_look; describe-plus does"),
        ({"normal_look": "Flat."}, "mode direct takes no normal_look"),
        ({"mode": Mode.FINE_GRAINED}, "mode fine-grained needs instruction, your own instruction"),
        ({"mode": Mode.FINE_GRAINED, "class_name": "dents"}, "mode fine-grained takes no class_name; it needs"),
        ({"mode": Mode.CONVERSATION}, "mode conversation needs instruction, your question"),
        ({"mode": Mode.GENERAL}, "mode general needs class_name, the objects"),
        ({"mode": Mode.EXPLAIN, "class_name": "a", "instruction": "b"}, "can't use both instruction and class_name"),
        ({"class_name": ""}, "class_name: found a blank text"),
        ({"class_name": "q" * 65}, "class_name: found 65 characters, expected at most 64"),
    ],
)
def test_a_piece_that_is_missing_or_too_much_is_named(pieces, message):
    with pytest.raises(InputError, match=message) as raised:
        text(**pieces)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("mode", [Mode.DIRECT, Mode.DESCRIBE, Mode.EXPLAIN, Mode.GENERAL])
def test_the_class_that_a_rejection_names_is_the_one_asked_for(mode):
    assert default_templates().class_of(text(mode, class_name="bent pins")) == "bent pins"


@pytest.mark.parametrize(
    "look", ["The tiles are flat", "All pins are straight! They stand in a row.", "Is it even? Yes."]
)
def test_a_normal_look_before_the_instruction_does_not_hide_its_class(look):
    asked = text(Mode.DESCRIBE_PLUS, class_name="bent pins", normal_look=look)
    assert asked.startswith(look)
    assert default_templates().class_of(asked) == "bent pins"


def test_instructions_without_a_template_stand_for_the_default_class():
    assert default_templates().class_of("The tiles are flat. Is this tile broken? Look closely.") == "anomalies"


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([1, NOR, ANO, SEG, 2], [[(0, 1), (1, 2), (2, 3)]]),
        ([NOR, ANO, SEG, 1, NOR, ANO, SEG], [[(0, 0), (1, 1), (2, 2)], [(0, 4), (1, 5), (2, 6)]]),
        ([1, SEG], [[(2, 1)]]),
        ([SEG, SEG], [[(2, 0)], [(2, 1)]]),
        ([NOR, 1, ANO, 2, SEG], [[(0, 0), (1, 2), (2, 4)]]),
        ([ANO, NOR, SEG], [[(1, 0)], [(0, 1), (2, 2)]]),
        ([1, 2], []),
    ],
)
def test_a_group_ends_where_an_anchor_repeats_or_is_out_of_order(tokens, expected):
    assert [list(group) for group in anchor_groups(tokens, (NOR, ANO, SEG))] == expected


def read(tokens, finished=True, mode=Mode.DIRECT):
    return read_answer(tokens, finished=finished, mode=mode, anchor_ids=(NOR, ANO, SEG), rejections={(5, 6, 7)})


def test_only_an_answer_that_reached_its_end_is_a_result():
    assert read([NOR, ANO, SEG]).kind is AnswerKind.SEGMENTED
    assert read([5, 6, 7]).kind is AnswerKind.REJECTED
    for tokens in ([NOR, ANO, SEG], [5, 6, 7]):
        stopped = read(tokens, finished=False)
        assert (stopped.kind, stopped.groups) == (AnswerKind.OTHER, ())
        assert stopped.reason == "the answer was stopped by the limit of 3 tokens"


@pytest.mark.parametrize("tokens", [[5, 6], [5, 6, 7, 8], [9], []])
def test_text_without_anchors_is_a_result_only_as_a_whole_rejection(tokens):
    reading = read(tokens)
    assert reading.kind is AnswerKind.OTHER
    assert "none of the rejections" in reading.reason


def test_a_conversation_is_no_inspection_whatever_it_says():
    for tokens in ([NOR, ANO, SEG], [5, 6, 7], [9]):
        reading = read(tokens, mode=Mode.CONVERSATION)
        assert (reading.kind, reading.groups) == (AnswerKind.OTHER, ())
        assert reading.reason == "a conversation is no inspection"
    assert "stopped by the limit of 1 tokens" in read([9], finished=False, mode=Mode.CONVERSATION).reason


def test_free_text_may_be_longer_than_a_template():
    assert {mode.token_limit for mode in Mode} == {128, 512}
    assert Mode.DIRECT.token_limit == 128
    assert Mode.CONVERSATION.token_limit == 512


def test_a_result_says_what_was_asked(segmenter: Segmenter, photo):
    assert segmenter.segment(photo).instruction == DEFAULT
    assert segmenter.segment(photo, class_name="dents").instruction == "Please segment the dents in this image."


def test_a_mode_may_be_named():
    assert Request("explain") == Request(Mode.EXPLAIN)
    with pytest.raises(InputError, match="mode: found 'explane', expected direct, describe, "):
        Request("explane")
