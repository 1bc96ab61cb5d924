"""Turns that teach empty maps and no words, and the weight of words beside maps."""

import numpy as np
import torch

from agvas_train.checkpoint import Checkpoint
from agvas_train.data.batch import collate, make_example
from agvas_train.data.conversation import Task
from agvas_train.data.synth import SynthConfig
from agvas_train.data.synth_turns import USUAL_ANSWER, USUAL_REJECTION, SynthTurns
from agvas_train.step import TrainingStep


def normal_turns(checkpoint: Checkpoint, empty_maps: float, task: Task = Task.DIRECT) -> SynthTurns:
    config = SynthConfig(normal_share=1.0, usual_sides=(96, 112), max_side=128)
    return SynthTurns(checkpoint.templates, {task: 1.0}, config, 3, empty_maps)


def test_normal_images_teach_empty_maps_as_often_as_is_asked(small: Checkpoint) -> None:
    turns = [normal_turns(small, 0.5).turn(index)[1] for index in range(60)]
    empty = [turn for turn in turns if turn.maps_only]
    assert 18 <= len(empty) <= 42
    assert all(turn.answer in small.templates.direct_answers and not turn.mask.any() for turn in empty)
    assert all(turn.mask is None and not turn.anchors for turn in turns if not turn.maps_only)


def test_without_the_option_and_in_other_tasks_they_teach_words_alone(small: Checkpoint) -> None:
    for turns in (normal_turns(small, 0), normal_turns(small, 1, Task.DESCRIBE)):
        assert not any(turns.turn(index)[1].maps_only for index in range(8))


def test_defects_are_taught_as_ever(small: Checkpoint) -> None:
    drawn = [
        SynthTurns(small.templates, {Task.DIRECT: 1.0}, SynthConfig(normal_share=0), 3, share).turn(5)
        for share in (0, 1)
    ]
    assert drawn[0][1].answer == drawn[1][1].answer
    assert np.array_equal(drawn[0][1].mask, drawn[1][1].mask)


def test_empty_maps_have_a_loss_and_no_words(small: Checkpoint) -> None:
    turns, config = normal_turns(small, 1), small.config.model
    examples = [make_example(*turns.turn(index), small.prompter, config) for index in range(2)]
    assert not any(any(example.taught) for example in examples)
    losses = TrainingStep(small.model, small.prompter)(collate(examples, config))
    losses["loss"].backward()
    assert losses["text"] == 0
    assert losses["dice"] > 0
    assert small.model.agmd.anchor_tokens.weight.grad.abs().sum() > 0


@torch.no_grad()
def test_words_count_as_much_as_is_asked(small: Checkpoint) -> None:
    turns, config = normal_turns(small, 0), small.config.model
    batch = collate([make_example(*turns.turn(index), small.prompter, config) for index in range(2)], config)
    once, fourfold = (TrainingStep(small.model, small.prompter, weight)(batch) for weight in (1.0, 4.0))
    assert torch.isclose(fourfold["loss"] - once["loss"], 3 * once["text"])


@torch.no_grad()
def test_cross_entropy_counts_as_much_as_is_asked(small: Checkpoint) -> None:
    turns, config = SynthTurns(small.templates, {Task.DIRECT: 1.0}, SynthConfig(normal_share=0), 3), small.config.model
    batch = collate([make_example(*turns.turn(index), small.prompter, config) for index in range(2)], config)
    usual, more = (
        TrainingStep(small.model, small.prompter)(batch),
        TrainingStep(small.model, small.prompter, bce_weight=20)(batch),
    )
    assert usual["bce"] > 0
    assert torch.isclose(more["loss"] - usual["loss"], 19.5 * usual["bce"])


def test_usual_words_are_one_answer_and_one_rejection_that_part_at_their_second_word(small: Checkpoint) -> None:
    answers: dict[bool, list[str]] = {True: [], False: []}
    config = SynthConfig(normal_share=0.5, usual_sides=(96, 112), max_side=128)
    for index in range(120):
        _, turn = SynthTurns(small.templates, {Task.DIRECT: 1.0}, config, 3, usual_words=0.7).turn(index)
        answers[turn.anchors].append(turn.answer)
    for kind, usual in ((True, USUAL_ANSWER), (False, USUAL_REJECTION)):
        assert 0.55 < answers[kind].count(usual) / len(answers[kind]) < 0.95
        assert len(set(answers[kind])) > 3
    first, second = (small.prompter.answer(text, anchors=True) for text in (USUAL_ANSWER, USUAL_REJECTION))
    assert first[0] == second[0]
    assert first[1] != second[1]
    assert USUAL_ANSWER in small.templates.direct_answers
    assert USUAL_REJECTION in small.templates.rejections
