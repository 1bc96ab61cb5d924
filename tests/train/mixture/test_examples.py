"""From turns to tensors: what is taught of a conversation, what of a mask counts."""

from pathlib import Path

import numpy as np
import pytest
import torch

from agvas_train.checkpoint import Checkpoint, load_checkpoint
from agvas_train.data.batch import LONGEST_TEXT, Example, collate, make_example
from agvas_train.data.conversation import MOST_QUESTION_BYTES, Task, Turn
from agvas_train.data.mixture.draw import side_by_side
from agvas_train.losses import segmentation_loss
from agvas_train.step import TrainingStep

IMAGE = np.zeros((8, 12, 3), np.uint8)


@pytest.fixture(scope="module")
def model(small_folder: Path) -> Checkpoint:
    return load_checkpoint(small_folder)


def made(model: Checkpoint, turn: Turn) -> Example:
    return make_example(IMAGE, turn, model.prompter, model.config.model)


def test_every_answer_of_a_conversation_is_taught_and_no_question(model: Checkpoint) -> None:
    more = (("Where is it?", "On the left."), ("Why?", "Nobody knows."))
    example = made(model, Turn(Task.CONVERSATION, "What is it?", "A dog.", False, None, more=more))
    taught = [token for token, its in zip(example.text, example.taught, strict=True) if its]
    end = model.prompter.end_id
    said = [model.prompter.decode(part) for part in np.split(taught, np.flatnonzero(np.array(taught) == end) + 1)]
    assert said == ["A dog.", "On the left.", "Nobody knows.", ""]
    rest = model.prompter.decode([t for t, its in zip(example.text, example.taught, strict=True) if not its])
    assert [rest.count(question) for question in ("What is it?", "Where is it?", "Why?")] == [1, 1, 1]
    batch = collate([example], model.config.model)
    assert batch.predicted.tolist() == taught
    assert batch.texts[0, batch.predictor_position + 1].tolist() == taught


def test_a_long_conversation_is_cut_but_never_before_its_anchors(model: Checkpoint) -> None:
    talk = made(model, Turn(Task.CONVERSATION, "Well?", "word " * 2000, False, None))
    assert len(talk.text) == len(talk.taught) == LONGEST_TEXT
    mask = np.ones((8, 12), bool)
    late = made(model, Turn(Task.DESCRIBE, "Well?", "word " * 2000 + "[NOR][ANO][SEG].", True, mask))
    assert len(late.text) == late.anchors[-1][1] + 1
    assert [late.text[at] for _, at in late.anchors] == list(model.prompter.anchor_ids)


def test_behind_the_longest_question_something_of_the_answer_is_left(model: Checkpoint) -> None:
    talks = [
        Turn(Task.CONVERSATION, "\U0001f642" * count, "Yes.", False, None) for count in (MOST_QUESTION_BYTES // 4, 500)
    ]
    room, none = (made(model, talk).taught for talk in talks)
    assert any(room)
    assert not any(none)  # which draw_turn passes over


def test_pixels_that_count_neither_way_are_out_of_the_loss(model: Checkpoint) -> None:
    mask, ignore = np.zeros((8, 12), bool), np.zeros((8, 12), bool)
    mask[:, :6], ignore[:, 4:8] = True, True
    example = made(model, Turn(Task.GENERAL, "Segment it.", "[SEG].", True, mask & ~ignore, ignore))
    side = example.valid.shape[0]
    inside = example.valid[: side * 8 // 12]  # the image is wider than high, the rest is padding
    assert not example.valid[side * 8 // 12 + 1 :].any()
    left, right = side * 4 // 12, side * 8 // 12
    assert inside[:, :left].all()
    assert inside[:, right + 1 :].all()
    assert not inside[:, left + 1 : right].any()
    counted = example.target[example.valid]
    assert set(np.unique(counted)) == {0.0, 1.0}  # a cell that is half ignored is what its other half is


def test_the_smallest_defect_of_a_large_image_is_in_its_target(model: Checkpoint) -> None:
    mask = np.zeros((8000, 8000), bool)
    mask[4000, 4000] = True
    target = made(model, Turn(Task.GENERAL, "Segment it.", "[SEG].", True, mask)).target
    assert np.count_nonzero(target) == 1


def test_a_map_of_which_nothing_counts_costs_nothing() -> None:
    logits, target = torch.randn(1, 1, 4, 4), torch.ones(1, 4, 4)
    losses = segmentation_loss(logits, target, torch.zeros(1, 4, 4, dtype=torch.bool), (2,))
    assert [float(loss) for loss in losses] == [0.0, 0.0]


def test_a_batch_of_every_kind_has_a_loss(model: Checkpoint) -> None:
    mask = np.ones((8, 12), bool)
    turns = [
        Turn(Task.CONVERSATION, "What?", "A dog.", False, None, more=(("Where?", "Left."),)),
        Turn(Task.GENERAL, "Segment it.", "[SEG].", True, mask, ~mask),
        Turn(Task.DIRECT, "Segment it.", "It is [NOR][ANO][SEG].", True, mask),
        Turn(Task.DIRECT, "Segment it.", "No defects.", False, None),
    ]
    losses = TrainingStep(model.model, model.prompter)(
        collate([made(model, turn) for turn in turns], model.config.model)
    )
    assert all(torch.isfinite(loss) and loss > 0 for loss in losses.values())


def test_several_images_are_one_picture() -> None:
    large, small = np.full((12, 12, 3), 200, np.uint8), np.full((6, 6, 3), 50, np.uint8)
    row = side_by_side((large, small))
    assert row.shape == (12, 24, 3)
    assert (row[:, :12] == 200).all()
    assert (row[:, 12:] == 50).all()
    assert side_by_side((large,)) is large
