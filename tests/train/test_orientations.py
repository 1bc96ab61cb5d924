"""Several turns about one painted picture, each time turned or mirrored another way."""

import numpy as np
import pytest

from agvas_train.checkpoint import Checkpoint
from agvas_train.config import TrainConfig
from agvas_train.data import synth_turns
from agvas_train.data.conversation import Task
from agvas_train.data.synth import SynthConfig, generate
from agvas_train.data.synth.compose import ORIENTATIONS, Shot, describe, shoot
from agvas_train.data.synth_turns import SynthTurns

CONFIG = SynthConfig(normal_share=0, usual_sides=(96, 112), max_side=128)


def turns(checkpoint: Checkpoint, orientations: int, task: Task = Task.DIRECT) -> SynthTurns:
    return SynthTurns(checkpoint.templates, {task: 1.0}, CONFIG, 3, orientations=orientations)


def all_ways(picture: np.ndarray) -> list[bytes]:
    quarters = [np.rot90(picture, k) for k in range(4)]
    return [each.tobytes() for way in quarters for each in (way, way[:, ::-1])]


def test_indices_in_a_row_see_one_picture_in_different_ways(small: Checkpoint) -> None:
    four = turns(small, 4)
    for picture in range(3):
        seen = [four.turn(4 * picture + view) for view in range(4)]
        assert np.array_equal(seen[0][0], generate(3, picture, CONFIG).image)  # the first as it was painted
        assert len({image.tobytes() for image, _ in seen}) == 4
        ways = list(zip(all_ways(seen[0][0]), all_ways(seen[0][1].mask), strict=True))
        assert all((image.tobytes(), turn.mask.tobytes()) in ways for image, turn in seen)


def test_an_index_gives_the_same_alone_and_in_its_row(small: Checkpoint) -> None:
    mixture, config = TrainConfig().mixture, SynthConfig(usual_sides=(96, 112), max_side=128)
    in_a_row, general = SynthTurns(small.templates, mixture, config, 3, orientations=4), 0
    for index in range(40):
        image, turn = in_a_row.turn(index)
        alone, same = SynthTurns(small.templates, mixture, config, 3, orientations=4).turn(index)
        assert np.array_equal(image, alone)
        assert (turn.instruction, turn.answer) == (same.instruction, same.answer)
        assert np.array_equal(turn.mask, same.mask) or turn.mask is None is same.mask
        general += turn.task is Task.GENERAL
    assert general  # which may be about the picture without its defects


def test_a_picture_is_painted_once_for_its_row(small: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    painted = []

    def counted(seed: int, picture: int, config: SynthConfig) -> Shot:
        painted.append(picture)
        return shoot(seed, picture, config)

    monkeypatch.setattr(synth_turns, "shoot", counted)
    drawn = turns(small, 4)
    for index in range(12):
        drawn.turn(index)
    assert painted == [0, 1, 2]


def test_one_orientation_is_the_stream_itself(small: Checkpoint) -> None:
    for index in range(4):
        assert np.array_equal(turns(small, 1).turn(index)[0], generate(3, index, CONFIG).image)


@pytest.mark.parametrize("orientation", range(ORIENTATIONS))
def test_words_and_boxes_are_about_the_picture_as_it_is_turned(orientation: int) -> None:
    shot = shoot(3, 3, SynthConfig(normal_share=0))
    made = describe(shot, 3, 3, orientation=orientation)
    plain = describe(shot, 3, 3)
    assert plain.parts
    assert [note.area_px for note in made.defects] == [note.area_px for note in plain.defects]
    for note, mask in zip(made.defects, made.masks, strict=True):
        rows, columns = np.nonzero(mask)
        assert note.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        vertical, horizontal = (rows.mean() + 0.5) / mask.shape[0], (columns.mean() + 0.5) / mask.shape[1]
        assert ("top" in note.place) == (vertical < 1 / 3)
        assert ("left" in note.place) == (horizontal < 1 / 3)
        assert note.place in made.caption.Observation
    for name, part in made.parts.items():
        assert part.tobytes() == all_ways(plain.parts[name])[2 * (orientation % 4) + orientation // 4]
