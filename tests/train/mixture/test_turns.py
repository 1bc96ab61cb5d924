"""What is asked and answered about the sets' samples, task by task."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agvas_runtime.errors import InputError
from agvas_runtime.templates import CLASS_FIELD, default_templates
from agvas_train.data.conversation import Task, Turn, draw_turn
from agvas_train.data.sets.outlines import Painted
from agvas_train.data.sets.registry import open_sets
from agvas_train.data.sets.sample import Message, Region, Sample
from tests.train.sets.anomaly_miniatures import TEXTS
from tests.train.sets.files import box

TEMPLATES = default_templates()
NAMES = TEMPLATES.class_names
DESCRIBE = (*TEMPLATES.describe_instructions, *TEMPLATES.quoted_instructions)


def turns(task: Task, sample: Sample, count: int = 200) -> list[Turn]:
    found = [draw_turn(task, sample, TEMPLATES, random.Random(seed)) for seed in range(count)]
    assert all(turn is not None for turn in found)
    return [turn for turn in found if turn is not None]


def filled(templates: tuple[str, ...]) -> set[str]:
    return {template.replace(CLASS_FIELD, name) for template in templates for name in NAMES}


@pytest.fixture
def sample(root: Path):
    return lambda name, index: open_sets(root, [name])[name].sample(index)


def test_anomaly_seg_is_direct(sample) -> None:
    found = turns(Task.DIRECT, sample("road", 2))
    assert {turn.instruction for turn in found} <= filled(TEMPLATES.direct_instructions)
    assert {turn.answer for turn in found} == set(TEMPLATES.direct_answers)
    assert len({turn.instruction for turn in found}) > 50
    assert all(np.array_equal(turn.mask, box(0, 2, 3, 7)) and turn.anchors for turn in found)


@pytest.mark.parametrize(
    ("task", "name", "index"),
    [(Task.DIRECT, "road", 0), (Task.DESCRIBE, "dtd-instruct", 1), (Task.EXPLAIN, "dtd-instruct", 1)],
)
def test_normal_images_are_rejected_in_words_alone_naming_the_class_asked_for(sample, task, name, index) -> None:
    found = turns(task, sample(name, index))
    assert all(turn.mask is None and not turn.anchors for turn in found)
    assert {turn.answer for turn in found} <= filled(TEMPLATES.rejections)
    for turn in found:
        assert turn.answer in TEMPLATES.rejections_of(TEMPLATES.class_of(turn.instruction))


def test_describe_then_segment_answers_with_the_summary(sample) -> None:
    found = turns(Task.DESCRIBE, sample("dtd-instruct", 0))
    assert {turn.instruction for turn in found} & filled(TEMPLATES.quoted_instructions)
    for turn in found:
        assert turn.instruction in filled(DESCRIBE)
        assert turn.answer == TEXTS["Summary"]
        assert turn.mask is not None


@pytest.mark.parametrize("index", [0, 1])
def test_describe_then_segment_plus_tells_the_expectation_first(sample, index) -> None:
    for turn in turns(Task.DESCRIBE_PLUS, sample("dtd-instruct", index)):
        assert turn.instruction.startswith("It should be smooth. ")
        assert turn.instruction.removeprefix("It should be smooth. ") in filled(DESCRIBE)
        assert (turn.answer == TEXTS["Summary"]) == (index == 0)


def test_an_expectation_that_a_user_could_not_send_is_left_out(sample) -> None:
    record = sample("dtd-instruct", 0)
    for look in ("", "x" * 241):
        changed = replace(record, caption=replace(record.caption, Expectation=look))
        assert {turn.instruction for turn in turns(Task.DESCRIBE_PLUS, changed)} <= filled(DESCRIBE)


def test_segment_then_explain_has_the_anchors_first(sample) -> None:
    for turn in turns(Task.EXPLAIN, sample("dtd-instruct", 0)):
        assert turn.instruction in filled(TEMPLATES.explain_instructions)
        answer = turn.answer.removesuffix(f" {TEXTS['Explanation']}")
        assert answer in TEMPLATES.direct_answers


def test_general_segmentation_names_a_region_and_answers_seg_alone(sample) -> None:
    found = turns(Task.GENERAL, sample("ade20k", 0))
    assert {turn.answer for turn in found} == set(TEMPLATES.general_answers)
    wall, flag = ({turn.mask.tobytes() for turn in found if name in turn.instruction} for name in ("wall", "flag"))
    assert len(wall) == len(flag) == 1
    assert wall != flag
    assert all(turn.ignore is not None and not (turn.ignore & turn.mask).any() for turn in found)


def test_a_sentence_does_not_get_a_second_article(sample) -> None:
    instructions = {turn.instruction for turn in turns(Task.GENERAL, sample("refcoco", 1))}
    assert "Please segment the right one in this image." in instructions
    assert not any("the the" in each for each in instructions)


def test_questions_are_asked_as_they_are_and_explained_where_the_set_does(sample) -> None:
    found = turns(Task.GENERAL, sample("reason-seg", 1))
    plain = [turn for turn in found if "and why?" not in turn.instruction]
    explained = [turn for turn in found if "and why?" in turn.instruction]
    assert {turn.instruction.split("? ")[0] for turn in plain} == {"What could burn", "Where is fuel"}
    assert all("segmentation mask." in turn.instruction for turn in plain)
    assert {turn.answer for turn in explained} == {
        f"{answer} The can holds fuel." for answer in TEMPLATES.general_answers
    }


def test_a_region_without_pixels_or_words_is_not_asked_for() -> None:
    empty, full = (Painted(np.full((8, 12), value)) for value in (False, True))
    base = Sample((), None, ("SEG",))  # type: ignore[arg-type]
    regions = (Region(("dog",), empty), Region((" ",), full), Region(("cat",), full))
    assert all("cat" in turn.instruction for turn in turns(Task.GENERAL, replace(base, regions=regions)))
    assert draw_turn(Task.GENERAL, replace(base, regions=regions[:2]), TEMPLATES, random.Random(0)) is None


def test_a_conversation_is_one_sample_with_all_its_turns(sample) -> None:
    (turn,) = turns(Task.CONVERSATION, sample("llava-150k", 0), 1)
    assert (turn.instruction, turn.answer, turn.more) == ("What is it?", "A dog.", (("Where?", "Left."),))
    assert not turn.anchors
    assert turn.mask is None


def test_a_conversation_ends_before_what_a_user_could_not_send(sample) -> None:
    talk = sample("llava-150k", 0)
    long = (Message("human", "x" * 501), Message("gpt", "y"))
    (turn,) = turns(Task.CONVERSATION, replace(talk, conversation=(*talk.conversation, *long)), 1)
    assert turn.more == (("Where?", "Left."),)


def asked(talk: Sample, *texts: str) -> Turn | None:
    """The turn of a conversation that says this instead."""
    messages = tuple(Message(("human", "gpt")[at % 2], text) for at, text in enumerate(texts))
    return draw_turn(Task.CONVERSATION, replace(talk, conversation=messages), TEMPLATES, random.Random(0))


def test_a_first_question_that_could_not_be_sent_or_leaves_no_room_for_its_answer_is_of_no_use(sample) -> None:
    talk = sample("llava-150k", 0)
    for few, many in (("x" * 500, "x" * 501), ("🙂" * 250, "🙂" * 251)):
        assert asked(talk, few, "Yes.") is not None
        assert asked(talk, many, "Yes.") is None
    region = Region(("x" * 470,), Painted(np.ones((8, 12), bool)), is_sentence=True)
    base = Sample((), None, ("SEG",), (region,))  # type: ignore[arg-type]
    assert draw_turn(Task.GENERAL, base, TEMPLATES, random.Random(0)) is None  # behind it comes what is asked for


@pytest.mark.parametrize(
    ("texts", "fault"),
    [
        (("What?", "a \ud83d"), r"answer: character 3 is '\\ud83d', expected readable text"),
        (("What?", " "), "answer: found a blank text, expected words"),
        (("\ud83d?", "A dog."), r"instruction: character 1 is '\\ud83d', expected readable text"),
        (("What?", "A dog.", "Where?", "\udc00"), r"turn 2: character 1 is '\\udc00', expected readable text"),
    ],
)
def test_a_conversation_that_cannot_be_read_is_refused(sample, texts, fault) -> None:
    with pytest.raises(InputError, match=rf"^llava-150k 0 .*: {fault}$"):
        asked(sample("llava-150k", 0), *texts)


@pytest.mark.parametrize("text", ["A pit \ud83d, [NOR][ANO][SEG].", "A pit \x00, [NOR][ANO][SEG]."])
def test_a_record_that_cannot_be_read_is_refused(sample, text) -> None:
    record = sample("dtd-instruct", 0)
    changed = replace(record, caption=replace(record.caption, Summary=text))
    with pytest.raises(InputError, match=r"dtd-instruct 0 .*: answer: character 7 is '.*', expected readable text"):
        draw_turn(Task.DESCRIBE, changed, TEMPLATES, random.Random(0))


def test_an_answer_has_the_anchors_that_its_sample_supervises(sample) -> None:
    changed = replace(sample("ade20k", 0), anchors=("NOR", "ANO", "SEG"))
    with pytest.raises(
        InputError, match=r"found the anchors \('SEG',\) in the answer, expected \('NOR', 'ANO', 'SEG'\)"
    ):
        draw_turn(Task.GENERAL, changed, TEMPLATES, random.Random(0))


@pytest.mark.parametrize(
    ("field", "text"), [("Summary", "[NOR][ANO][SEG] and [NOR][ANO][SEG]."), ("Explanation", "It is [SEG].")]
)
def test_a_record_with_other_anchors_than_one_group_is_refused(sample, field, text) -> None:
    record = sample("dtd-instruct", 0)
    changed = replace(record, caption=replace(record.caption, **{field: text}))
    task = Task.DESCRIBE if field == "Summary" else Task.EXPLAIN
    with pytest.raises(InputError, match=r"dtd-instruct 0 .*: found the anchors .* in the answer, expected"):
        draw_turn(task, changed, TEMPLATES, random.Random(0))


def test_a_defect_without_a_pixel_is_refused(sample) -> None:
    road = sample("road", 2)
    changed = replace(road, anomaly=replace(road.anomaly, mask=np.zeros((8, 12), bool)))
    with pytest.raises(InputError, match=r"road 2 .*: found an empty mask"):
        draw_turn(Task.DIRECT, changed, TEMPLATES, random.Random(0))


def test_a_defect_without_pixel_labels_is_of_no_use(sample) -> None:
    assert draw_turn(Task.DIRECT, sample("miad", 2), TEMPLATES, random.Random(0)) is None
