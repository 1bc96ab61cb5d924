"""An engine for the bench whose every turn is written down and whose times are given."""

import numpy as np

from agvas_runtime.bench.contenders import Contender
from agvas_runtime.bench.frames import Frame
from agvas_runtime.bench.latency import Track
from agvas_runtime.errors import InputError
from agvas_runtime.maps import AnomalyMap
from agvas_runtime.result import AnswerKind, Result, Scores, Verdict


class Diary:
    """Writes down its turns; frames that begin with "x" are answered outside the templates.

    The mask has the pixels whose numbers are the frame's further letters, as in b"0ab", of 26.
    """

    weights_note = ""

    def __init__(self, name="", turns=None, llm_ms=1.0, text_ms=0.0, verdict=Verdict.PASS, without=""):
        self.name, self.turns, self.llm_ms, self.text_ms = name, [] if turns is None else turns, llm_ms, text_ms
        self.verdict, self.without = verdict, without

    def segment(self, image, instruction=None, recipe=None, **asked):
        self.turns.append((self.name, image))
        mask = np.zeros((1, 26), bool)
        for letter in image[1:].decode():
            mask[0, ord(letter) - ord("a")] = letter not in self.without
        left = image.startswith(b"x")
        timings = {"decode": 1.0, "llm": self.llm_ms, "text": self.text_ms * left, "total": 2.0}
        kind = AnswerKind.OTHER if left else AnswerKind.REJECTED
        scores, text = Scores(0.0, 1.0, 0.0, 0.0, 1.0), instruction or asked["mode"].value
        found = AnomalyMap.of(mask.astype(np.float32))
        return Result(self.verdict, "", "", kind, found, mask, (), scores, timings, text, one_pass=not left)


class BatchDiary(Diary):
    """One that segments up to `most` frames together."""

    def __init__(self, *args, most=8, **options):
        super().__init__(*args, **options)
        self.most = most

    def segment_batch(self, images, request):
        if len(images) > self.most:
            raise InputError(f"found {len(images)} frames at once")
        self.turns.append((self.name, *images))


def tracks_of(names, turns, diary=Diary):
    return [Track(Contender.of(name, None), diary(name, turns)) for name in names]


def frames_of(*data):
    return [Frame(each) for each in data]
