"""An evaluation whose every number is known: the anomaly probability is the image's red channel."""

from pathlib import Path

import numpy as np
from PIL import Image

from agvas_runtime.errors import EngineError
from agvas_runtime.evaluate.sources import asks
from agvas_runtime.frames import read_image
from agvas_runtime.maps import AnomalyMap
from agvas_runtime.modes import Request
from agvas_runtime.result import AnswerKind, Result, Scores, Verdict


class RedEngine:
    """An engine whose anomaly probability is the red channel; the blue one says how it answers."""

    def segment(self, image, instruction=None, recipe=None, **asked):
        self.asked = instruction, asked
        frame = read_image(image)
        blue = frame[0, 0, 2]
        if blue == 60:
            raise EngineError("graph llm: out of memory")
        kind = {0: AnswerKind.SEGMENTED, 10: AnswerKind.REJECTED, 20: AnswerKind.OTHER}[int(blue)]
        red = frame[:, :, 0].astype(np.float32) / 255
        probability = np.zeros_like(red) if kind is AnswerKind.REJECTED else red
        verdict = Verdict.NO_ANSWER if kind is AnswerKind.OTHER else Verdict.PASS
        scores = Scores(0.5, 0.5, 0.0, 0.5, 1.0)
        text = instruction or f"{asked['mode'].value} {asked['class_name']} {asked['normal_look']}"
        found = AnomalyMap.of(probability)
        return Result(verdict, "odd text", "", kind, found, probability > 0.5, (), scores, {}, text)


class Red:
    """That engine as a source; it may fail after some images."""

    def __init__(self, request=Request(), fails_after=None):
        self.engine, self.request, self.fails_after = RedEngine(), request, fails_after
        self.asked = []

    def open(self):
        return self.answer, "weights are red"

    def answer(self, item):
        if len(self.asked) == self.fails_after:
            raise EngineError("graph llm: out of memory")
        self.asked.append(item.name)
        return asks(self.engine, self.request)(item)

    def settings(self, items):
        return {"engine": "red", "model": None, "mode": self.request.mode.value}


def save(root, name, red, blue=0, truth=None, category="part"):
    """One image of a category; `red` uint8 [H,W] is its answer, `truth` its defect."""
    kind = "good" if truth is None else "crack"
    image = np.zeros((*red.shape, 3), np.uint8)
    image[:, :, 0], image[:, :, 2] = red, blue
    path = Path(root) / category / "test" / kind / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    if truth is not None:
        mask = Path(root) / category / "ground_truth" / kind / f"{name}_mask.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(truth.astype(np.uint8) * 255).save(mask)
