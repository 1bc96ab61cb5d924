"""Turns about synthetic images: the stream that training draws from where no data sets are named."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.templates import Templates
from agvas_train.data import synth
from agvas_train.data.conversation import Task, Turn, draw_task, draw_turn
from agvas_train.data.sets.outlines import Painted
from agvas_train.data.sets.sample import ALL_ANCHORS, SEG_ALONE, Anomaly, Message, Region, Sample, Source
from agvas_train.data.synth import SynthConfig, generate
from agvas_train.data.synth.captions import noun, where
from agvas_train.data.synth.compose import ORIENTATIONS, Shot, describe, shoot
from agvas_train.data.synth.notes import DefectNote

DEFAULT_SHARE = 0.3
"""Of the direct instructions: the default one is what most users send."""
PARTS_SHARE = 0.5
"""Of the general turns: they ask for parts of a sound picture, the others for one of the defects, by its place."""
APART = 1 / 8
"""Of the longer side: so far from every other defect is one that is asked for alone."""
OTHER_SAMPLE = 10**9
"""Distance of the index at which another sample is taken where the first does not suit its task."""

USUAL_ANSWER, USUAL_REJECTION = "It is [NOR][ANO][SEG].", "It looks normal to me."
"""Of Figure A.7. They part at their second word, where greedy decoding takes what is likelier: an answer or none."""

_QUESTIONS = ("Are there any {class_name} in this image?", "Do you see any {class_name} here?")
_SHOWN = ("What is shown in this image?", "Please describe this image.")


class SynthTurns:
    """A turn for each index, by the seed and the index alone.

    Args:
        mixture: weight of each task.
        config: what the images are like.
        empty_maps: share of the direct turns about normal images that teach empty maps, and no words.
        usual_words: share of the turns about anomalies in the usual answer's or the usual rejection's words.
        orientations: how many indices in a row are about one picture, each time turned or mirrored another way.
    """

    def __init__(
        self,
        templates: Templates,
        mixture: Mapping[Task, float],
        config: SynthConfig,
        seed: int,
        empty_maps: float = 0,
        usual_words: float = 0,
        orientations: int = 1,
    ) -> None:
        self.templates = templates
        self.mixture = dict(mixture)
        self.config = config
        self.seed = seed
        self.empty_maps = empty_maps
        self.usual_words = usual_words
        self.orientations = orientations
        self._picture, self._shots = -1, dict[SynthConfig, Shot]()
        usual = {"direct_answers": (USUAL_ANSWER,), "rejections": (USUAL_REJECTION,)}
        self._usual_templates = templates.model_copy(update=usual)

    def turn(self, index: int) -> tuple[NDArray[np.uint8], Turn]:
        """Image, uint8 RGB [H, W, 3], and turn of one index."""
        rng = random.Random(f"{self.seed}/{index}")
        task = draw_task(self.mixture, rng)
        config = self.config
        if task is Task.GENERAL and rng.random() < PARTS_SHARE:
            config = replace(config, normal_share=1.0)  # what is missing or covered would still be in the parts' masks
        while True:  # another sample rather than another task: the shares are the mixture's
            made = self._made(index, config, parts=task is Task.GENERAL)
            sample = as_sample(made, self.seed, index)
            if task is Task.GENERAL:
                sample = replace(sample, anchors=SEG_ALONE)  # its regions are asked for, not its defects
            if task is Task.CONVERSATION:
                sample = replace(sample, conversation=_talk(made, self.templates, rng))
            usual = self.usual_words and rng.random() < self.usual_words
            templates = self._usual_templates if usual else self.templates
            turn = draw_turn(task, sample, templates, rng, default_share=DEFAULT_SHARE)
            if turn is not None:
                return made.image, self._with_empty_map(turn, made, rng)
            index += OTHER_SAMPLE * self.orientations

    def _made(self, index: int, config: SynthConfig, parts: bool) -> synth.Sample:
        """The sample of an index; one picture is painted once for the indices in a row that are about it."""
        picture, view = divmod(index, self.orientations)
        ways = random.Random(f"{self.seed}/{picture}/ways").sample(range(1, ORIENTATIONS), self.orientations - 1)
        return describe(self._shot(picture, config), self.seed, picture, parts=parts, orientation=(0, *ways)[view])

    def _shot(self, picture: int, config: SynthConfig) -> Shot:
        if picture >= OTHER_SAMPLE:  # taken instead of another; the next index may be about that one again
            return shoot(self.seed, picture, config)
        if picture != self._picture:
            self._picture, self._shots = picture, {}
        if config not in self._shots:
            self._shots[config] = shoot(self.seed, picture, config)
        return self._shots[config]

    def _with_empty_map(self, turn: Turn, made: synth.Sample, rng: random.Random) -> Turn:
        """The turn, or in its place one that has maps to be taught where there is nothing to be found (ours).

        A model that answers a normal image in spite of all then has an empty map for it.
        """
        normal = turn.task is Task.DIRECT and turn.mask is None
        if not normal or not self.empty_maps or rng.random() >= self.empty_maps:
            return turn
        answer = rng.choice(self.templates.direct_answers)
        return replace(turn, answer=answer, anchors=True, mask=np.zeros_like(made.mask), maps_only=True)


def as_sample(made: synth.Sample, seed: int, index: int) -> Sample:
    """What the generator knows of an image, as the public sets say it. The image is no file."""
    present = made.caption.exists
    kind = made.defects[0].kind if made.defects else "good"
    return Sample(
        images=(),
        source=Source(f"synthetic stream {seed}", Path(), index),
        anchors=ALL_ANCHORS if present else (),
        regions=_regions(made),
        anomaly=Anomaly(present, made.mask if present else None, made.surface.name, kind),
        caption=made.caption,
    )


def _regions(made: synth.Sample) -> tuple[Region, ...]:
    """What can be asked for: the parts of a sound picture, or each defect that its place tells from the others."""
    if not made.defects:
        return tuple(Region((name,), Painted(made.parts[name])) for name in sorted(made.parts))
    return tuple(
        Region((f"{noun(note.kind)} {where(note.place)}", f"defect {where(note.place)}"), Painted(mask))
        for note, mask in zip(made.defects, made.masks, strict=True)
        if all(_apart(note, other, max(mask.shape)) for other in made.defects if other is not note)
    )


def _apart(one: DefectNote, other: DefectNote, side: int) -> bool:
    """Whether two defects are in different cells of the grid of places, and far from each other."""
    (left, top, right, bottom), (x0, y0, x1, y1) = one.box, other.box
    return one.place != other.place and max(x0 - right, left - x1, y0 - bottom, top - y1) >= APART * side


def _talk(made: synth.Sample, templates: Templates, rng: random.Random) -> tuple[Message, Message]:
    if rng.random() < 0.5:
        question, answer = rng.choice(_SHOWN), f"The image shows the {made.surface.name}."
    else:
        question, _ = templates.draw_instruction(_QUESTIONS, rng)
        caption = made.caption
        answer = f"Yes. {caption.Observation}" if caption.exists else f"No. {caption.Expectation}"
    return Message("human", question), Message("gpt", answer)


def caption_corpus(seed: int, count: int, config: SynthConfig) -> list[str]:
    """The captions of `count` small images of the stream's kinds, for training a tokenizer."""
    corpus = []
    small = replace(config, usual_sides=(96, 128), max_side=max(128, config.min_side))
    for index in range(count):
        made = generate(seed, index, small)
        caption = made.caption
        corpus += [caption.Expectation, caption.Observation, caption.Diagnosis, caption.Summary, caption.Explanation]
        corpus += [f"The image shows the {made.surface.name}.", *made.parts]
    return corpus
