"""What the steps of measure.py do: a preset's model, and what is measured on it in one process."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from common import ANSWER, build, images
from frame import Frame, compare
from parts import encoders_and_decoder, passes
from peaks import peaks
from quantise_model import head_in, language_in, rest_in
from routes import compiled_decode, reference
from single_pass import Language, Plan
from timing import ERRORS, Graphed, clock, error, fresh_memory, kernels, memory, timed
from vision import Encoders

from agvas_runtime.errors import EngineError
from agvas_runtime.plan import Known
from agvas_train.checkpoint import Checkpoint
from agvas_train.reference import ReferenceSegmenter

ROUTES = {"reference", "compiled-decode"}
"""Steps that run on the library's own layers."""


class Bench:
    """The model of a preset and what is measured on it. Every step says which kinds of numbers it needs, and gets them.

    `kinds` are those of the language model's layers, of the rest, and of the output head, each the dtype's name or one
    of `quantised.KINDS`.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.device = options, options.device
        self.repeats: int = options.repeats
        self.shown = list(images(options.images))
        self.exact: str = options.dtype
        self.kinds = dict.fromkeys(("language", "rest", "head"), self.exact)
        self.frame: Frame | None = None
        self.head: torch.Tensor | None = None  # exact, on the host, once it is gone from the device
        self.base: list[tuple[torch.Tensor, torch.Tensor]] = []

    def build(self, found: dict[str, Any]) -> None:
        """Draw, plant, put the fast forms around it."""
        dtype, reduce = getattr(torch, self.exact), self.options.reduce
        began = time.perf_counter()
        self.checkpoint, self.weights = build(self.options.preset, self.device, dtype=dtype, reduce=reduce)
        found["plant"] = self.checkpoint.provenance["plant"]
        found["drawn_and_planted_s"] = round(time.perf_counter() - began, 2)
        self.model = self.checkpoint.model
        found["parameters"] = sum(each.numel() for each in self.model.parameters())
        if set(self.options.steps) <= ROUTES | {"build"}:  # they stay as they are
            return
        self.encoders, self.language = Encoders(self.model, self.checkpoint.config.model), Language(self.model)
        self.plan = Plan(self.checkpoint, Known.DIRECT, self.device)
        found |= {"prompt": self.plan.length, "nodes": self.plan.rows - 1, "tokens": self.plan.tokens}
        found["seconds_to_here"] = round(time.perf_counter() - began, 2)
        found["memory"] = memory()

    def to(self, language: str, rest: str, head: str | None = None) -> None:
        """Put the language model's layers, the rest, and the output head (or as the rest) into a kind of numbers each.

        What is in its kind already stays. Raises EngineError where the rest is in fewer bits and in the wrong ones.
        """
        wanted = {"language": language, "rest": rest, "head": head or rest}
        if wanted == self.kinds:
            return
        if self.kinds["rest"] not in (rest, self.exact):
            raise EngineError(f"rest of the model: found {self.kinds['rest']}, expected {rest}: take another process")
        self.baseline()
        self.drop_frame()
        changes: dict[str, Callable[[], None]] = {
            "language": lambda: language_in(language, self.model, self.language, self.weights),
            "rest": lambda: rest_in(rest, self.model, self.encoders),
            "head": lambda: self._head_to(wanted["head"]),
        }
        for part, change in changes.items():
            if self.kinds[part] != wanted[part]:
                self.kinds[part] = "an unfinished change"
                change()
                self.kinds[part] = wanted[part]

    def _head_to(self, kind: str) -> None:
        if self.head is None:
            self.head = self.language.head.weight.to("cpu")
        head_in(kind, self.model, self.language, self.head.to(self.device))

    def embeddings_on(self, device: str) -> int:
        """Move the table of embeddings; returns its bytes."""
        table = self.model.llava.get_input_embeddings()
        table.weight = torch.nn.Parameter(table.weight.to(device), requires_grad=False)
        return table.weight.nbytes

    def drop_frame(self) -> None:
        """Give the frame's memory back."""
        self.frame = None
        fresh_memory()

    def new_frame(self, **options: Any) -> Frame:
        """A frame over the model as it is now, with an image before it; the last one's memory is given back first."""
        self.drop_frame()
        self.frame = self._frame(**options)
        return self.frame

    def _frame(self, **options: Any) -> Frame:
        how = self.options.attention
        frame = Frame(self.checkpoint, self.encoders, self.language, self.plan, how=how, **options)
        frame.take(self.shown[0])
        return frame

    def ready(self, language: str | None = None, rest: str | None = None) -> Frame:
        """A frame in these kinds of numbers, by default the exact ones: the one that stands, or a new one."""
        self.to(language or self.exact, rest or self.exact)
        return self.frame or self.new_frame()

    def whole(self, found: dict[str, Any]) -> None:
        """Times of a new frame with the encoders side by side; memory; the clock after it."""
        began = time.perf_counter()
        frame = self.new_frame()
        found["compiled_and_recorded_s"] = round(time.perf_counter() - began, 2)
        frame.times(found, self.repeats)
        found["memory"] = memory()
        found["clock"] = clock()

    def in_16_bits(self, found: dict[str, Any]) -> None:
        """The exact model's frame; its states and maps are what fewer bits are compared with."""
        self.whole(found)
        self.baseline()
        if self.device == "cuda":
            serial = self._frame(streams=False)
            found["encoders_one_after_the_other"] = timed(serial.first, repeats=self.repeats)

    def baseline(self) -> None:
        """Keep the exact model's states and maps of some images; once, and not after bits are gone."""
        if self.base or set(self.kinds.values()) != {self.exact}:
            return
        frame = self.ready()
        rows = frame.answer_rows(ANSWER)
        for image in self.shown[:3]:
            frame.take(image)
            (said, *_) = frame()
            seen, _ = frame.first.outputs
            self.base.append((seen.states[0, rows].clone(), said.map.clone()))

    def checks(self, found: dict[str, Any]) -> None:
        """Against decoding token by token."""
        frame = self.ready()
        found["images"] = compare(frame, ReferenceSegmenter(self.checkpoint, template_scores=False), self.shown)
        found["equal"] = sum(each["equal"] for each in found["images"])
        found["of"] = len(found["images"])
        found["smallest_margin"] = min(each["min_margin"] for each in found["images"])
        found |= frame.told()

    def route(self, run: Callable[[dict[str, Any], Checkpoint, int], None], frames: int, found: dict[str, Any]) -> None:
        """A route that decodes token by token, as it was built and without a frame's memory beside it."""
        if not self.model.llava.model.language_model.layers:
            raise EngineError("the library's layers: found none, given up for fewer bits: take another process")
        self.embeddings_on(self.device)
        self.drop_frame()
        run(found, self.checkpoint, frames)

    def memory(self, found: dict[str, Any]) -> None:
        """As the product runs: the table of embeddings is on the host, since the plan holds the rows that it needs."""
        self.to(self.exact, self.exact)
        found["embeddings_gb"] = round(self.embeddings_on("cpu") / 1e9, 3)
        frame = self.new_frame()
        frame()
        found["memory"] = memory()
        found["frame"] = timed(frame, repeats=self.repeats, wall=True)
        found |= frame.told()

    def profile(self, found: dict[str, Any], language: str | None = None, rest: str | None = None) -> None:
        """The kernels that take the time."""
        frame = self.ready(language, rest)
        found |= {"language_model": self.kinds["language"], "rest": self.kinds["rest"], **frame.told()}
        found["frame"] = kernels(frame)
        found["frame_after"] = timed(frame, repeats=5, wall=True)

    def parts(self, found: dict[str, Any]) -> None:
        """Encoders, SPAM, decoder."""
        encoders_and_decoder(found, self.ready(), self.repeats // 2)
        found["not_compiled"] = dict(ERRORS)

    def passes(self, found: dict[str, Any]) -> None:
        """The language model's pass in 16 bits, its head's too; the plans need the embeddings on the device."""
        self.to(self.exact, self.kinds["rest"], self.exact)
        self.drop_frame()
        self.embeddings_on(self.device)
        passes(found, self.checkpoint, self.language, self.plan, self.repeats // 2, self.options.attention)
        found["not_compiled"] = dict(ERRORS)

    def fewer_bits(self, language: str, rest: str, found: dict[str, Any]) -> None:
        """Everything again with the language model's layers, and the rest with the output head, in other kinds."""
        self.to(language, rest)
        self.embeddings_on("cpu")
        found |= {"language_model": language, "rest": rest}
        self.whole(found)
        frame, config = self.ready(language, rest), self.checkpoint.config.model
        visual = torch.randn(1, config.visual_tokens, config.hidden_size, device=self.device).to(self.plan.before)
        call = partial(self.language, visual, self.plan, frame.how, frame.kernel, frame.masks)
        found["pass"] = timed(Graphed(call), repeats=self.repeats)
        if not self.base:
            found["errors"] = "no figures in 16 bits to compare with"
            return
        rows, answers, margins, states, maps = frame.answer_rows(ANSWER), [], [], [], []
        for image, (expected, expected_map) in zip(self.shown, self.base, strict=False):
            frame.take(image)
            (said, *_) = frame()
            seen, _ = frame.first.outputs
            answers.append(self.checkpoint.prompter.decode(said.tokens))
            margins.append(round(said.margin, 4))
            states.append(error(seen.states[0, rows], expected))
            maps.append(error(said.map, expected_map))
        found |= {"answers": answers, "min_margins": margins, "states_error": states, "map_error": maps}
        found["answers_equal"] = sum(answer == ANSWER for answer in answers)
        found["not_compiled"] = dict(ERRORS)

    def throughput(self, batch: int, found: dict[str, Any]) -> None:
        """So many frames together, each with its own walk."""
        self.to(self.exact, self.exact)
        frame = self.new_frame(batch=batch)
        found |= timed(frame, repeats=max(self.repeats // 2, 3), wall=True)
        found["frames_a_second"] = round(batch / found["ms"] * 1e3, 1)
        found |= {"memory": memory(), **frame.told()}
        self.drop_frame()  # other steps want one of a single image

    def steps(self) -> dict[str, Callable[[dict[str, Any]], None]]:
        """What each name runs."""
        small = {"side": 256, "seconds": 0.1} if self.device == "cpu" else {}
        return {
            "peaks": lambda found: peaks(found, self.device, **small),
            "build": self.build,
            "frame": self.in_16_bits,
            "checks": self.checks,
            "reference": partial(self.route, reference, 3),
            "memory": self.memory,
            "profile": self.profile,
            "parts": self.parts,
            "fp8": partial(self.fewer_bits, "fp8", self.exact),
            "profile_fp8": lambda found: self.profile(found, "fp8"),
            "fp8_all": partial(self.fewer_bits, "fp8", "fp8"),
            "profile_fp8_all": lambda found: self.profile(found, "fp8", "fp8"),
            "int4_all": partial(self.fewer_bits, "int4", "fp8"),
            "passes": self.passes,
            "int8_all": partial(self.fewer_bits, "int8", "fp8"),
            "throughput_1": partial(self.throughput, 1),
            "throughput_4": partial(self.throughput, 4),
            "compiled-decode": partial(self.route, compiled_decode, 10),
        }
