"""One preset's figures in one process: whole frame, checks against decoding token by token, parts, precisions.

    python scripts/gpu/measure.py --preset 7b --out figures/7b.json --seconds 160
    python scripts/gpu/measure.py --preset 7b --reduce --device cpu --dtype float32 --out /tmp/try.json

Steps run in the order of STEPS; the JSON is written after each, and what stands in it is not measured again.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
# before torch: a profiler that comes and goes breaks recorded graphs; compiled code is shared by the processes of a run
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", "/tmp/agvas-inductor")
os.environ.setdefault("DISABLE_CUPTI_LAZY_REINIT", "1")
os.environ.setdefault("TEARDOWN_CUPTI", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import attention
import torch
from common import ANSWER, build, images
from frame import Frame, compare
from parts import encoders_and_decoder, passes
from peaks import peaks
from quantise_model import language_again, language_in, rest_in
from record import UNUSABLE, Record
from routes import compiled_decode, reference
from single_pass import Language, Plan
from timing import ERRORS, Compiled, Graphed, allow_compiling, error, fresh_memory, kernels, memory, timed
from vision import Encoders

from agvas_runtime.plan import Known
from agvas_train.reference import ReferenceSegmenter

STEPS = {
    "peaks": 2.0,
    "build": 8.0,
    "frame": 25.0,
    "checks": 8.0,
    "reference": 5.0,
    "memory": 4.0,
    "profile": 4.0,
    "parts": 10.0,
    "fp8": 15.0,
    "profile_fp8": 3.0,
    "fp8_all": 15.0,
    "profile_fp8_all": 3.0,
    "int4_all": 12.0,
    "passes": 15.0,
    "int8": 12.0,
    "throughput": 20.0,
    "compiled-decode": 30.0,
}
"""Every step and about the seconds it needs; one that needs more than is left is put off."""
ROUTES = {"reference", "compiled-decode"}
DEFAULT = [step for step in STEPS if step not in ("throughput", "compiled-decode")]


class Bench:
    """The model of a preset and what is measured on it; the precision only ever goes down."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.device = options, options.device
        self.repeats: int = options.repeats
        self.shown = list(images(options.images))
        self.frame: Frame | None = None
        self.reduced = False
        self.rest: str = options.dtype
        self.head: torch.Tensor | None = None
        self.base: list[tuple[torch.Tensor, torch.Tensor]] = []

    def build(self, found: dict[str, Any]) -> None:
        """Draw, plant, put the fast forms around it."""
        dtype, reduce = getattr(torch, self.options.dtype), self.options.reduce
        began = time.perf_counter()
        self.checkpoint, self.weights = build(self.options.preset, self.device, dtype=dtype, reduce=reduce)
        found["plant"] = self.checkpoint.provenance["plant"]
        found["drawn_and_planted_s"] = round(time.perf_counter() - began, 2)
        model = self.checkpoint.model
        found["parameters"] = sum(each.numel() for each in model.parameters())
        if set(self.options.steps) <= ROUTES | {"build"}:  # they stay as they are
            return
        self.encoders, self.language = Encoders(model, self.checkpoint.config.model), Language(model)
        self.plan = Plan(self.checkpoint, Known.DIRECT, self.device)
        found |= {"prompt": self.plan.length, "nodes": self.plan.rows - 1, "tokens": self.plan.tokens}
        found["seconds_to_here"] = round(time.perf_counter() - began, 2)
        found["memory"] = memory()

    def new_frame(self, **options: Any) -> Frame:
        """A frame over the model as it is now; the last one's memory is given back first."""
        self.frame = None
        fresh_memory()
        self.frame = Frame(self.checkpoint, self.encoders, self.language, self.plan, **options)
        return self.frame

    def whole(self, found: dict[str, Any], repeats: int) -> None:
        """Times of the frame on the two streams and on one, whichever is faster stays; memory."""
        began = time.perf_counter()
        frame = self.new_frame()
        found["compiled_and_recorded_s"] = round(time.perf_counter() - began, 2)
        frame.take(self.shown[0])
        frame.times(found, repeats)
        found["memory"] = memory()
        found["clock"] = clock()

    def in_16_bits(self, found: dict[str, Any]) -> None:
        """The exact model's frame; its states and maps are what fewer bits are compared with."""
        self.whole(found, self.repeats)
        self.baseline()
        if self.device == "cuda":
            serial = Frame(self.checkpoint, self.encoders, self.language, self.plan, streams=False)
            serial.take(self.shown[0])
            found["encoders_one_after_the_other"] = timed(serial.first, repeats=self.repeats)

    def baseline(self) -> None:
        """Keep the exact model's states and maps of some images; once, and not after bits are gone."""
        if self.base or self.reduced:
            return
        frame = self.frame or self.new_frame()
        rows = frame.answer_rows(ANSWER)
        for image in self.shown[:3]:
            frame.take(image)
            (said, *_) = frame()
            seen, _ = frame.first.outputs
            self.base.append((seen.states[0, rows].clone(), said.map.clone()))

    def checks(self, found: dict[str, Any]) -> None:
        """Against decoding token by token."""
        frame = self.frame or self.new_frame()
        found["images"] = compare(frame, ReferenceSegmenter(self.checkpoint, template_scores=False), self.shown)
        found["equal"] = sum(each["equal"] for each in found["images"])
        found["of"] = len(found["images"])
        found["smallest_margin"] = min(each["min_margin"] for each in found["images"])

    def memory(self, found: dict[str, Any]) -> None:
        """As the product runs: the table of embeddings is on the host, since the plan holds the rows that it needs."""
        embeddings = self.checkpoint.model.llava.get_input_embeddings()
        place(embeddings, "cpu")
        found["embeddings_gb"] = round(embeddings.weight.nbytes / 1e9, 3)
        frame = self.new_frame()
        frame.take(self.shown[0])
        frame()
        found["memory"] = memory()
        found["frame"] = timed(frame, repeats=self.repeats, wall=True)

    def profile(self, found: dict[str, Any]) -> None:
        """The kernels that take the time."""
        frame = self.frame or self.new_frame()
        found["frame"] = kernels(frame)
        found["frame_after"] = timed(frame, repeats=5, wall=True)

    def parts(self, found: dict[str, Any]) -> None:
        """Encoders, SPAM, decoder."""
        encoders_and_decoder(found, self.frame or self.new_frame(), self.repeats // 2)
        found["not_compiled"] = dict(ERRORS)

    def passes(self, found: dict[str, Any]) -> None:
        """The language model's pass in 16 bits; its embeddings are needed on the device for the plans."""
        self.frame = None
        fresh_memory()
        if self.reduced:
            head = self.language.head.weight if self.head is None else self.head
            language_again(self.checkpoint.model, self.language, self.weights, head)
            self.rest = f"{self.rest}, output head {self.options.dtype}"
        place(self.checkpoint.model.llava.get_input_embeddings(), self.device)
        passes(found, self.checkpoint, self.language, self.plan, self.repeats // 2)
        found["not_compiled"] = dict(ERRORS)

    def fewer_bits(self, kind: str, found: dict[str, Any], *, rest: str | None = None) -> None:
        """The language model's layers in a kind of numbers, the rest too if it is not yet; then everything again."""
        model = self.checkpoint.model
        self.baseline()
        self.frame, self.reduced = None, True
        place(model.llava.get_input_embeddings(), "cpu")
        language_in(kind, model, self.language, self.weights)
        if rest is not None and self.head is None:
            self.rest, self.head = rest, self.language.head.weight.to("cpu")
            rest_in(rest, model, self.encoders, self.language)
        found |= {"language_model": kind, "rest": self.rest}
        self.whole(found, self.repeats)
        frame = self.frame or self.new_frame()
        visual = torch.randn_like(frame.encoders.visual(*_features(frame)))
        kernel = self.language.kernel(self.plan)
        found["pass"] = timed(Graphed(lambda: self.language(visual, self.plan, "split", kernel)), repeats=self.repeats)
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

    def throughput(self, found: dict[str, Any]) -> None:
        """Frames together, each with its own walk."""
        for batch in (1, 2, 4, 8):
            frame = self.new_frame(batch=batch)
            frame.take(self.shown[0])
            about = timed(frame, repeats=max(self.repeats // 2, 3), wall=True)
            about["frames_a_second"] = round(batch / about["ms"] * 1e3, 1)
            found[str(batch)] = about | memory()

    def steps(self) -> dict[str, Callable[[dict[str, Any]], None]]:
        """What each name runs."""
        small = self.device == "cpu"
        return {
            "peaks": lambda found: peaks(found, self.device, 256 if small else 8192),
            "build": self.build,
            "frame": self.in_16_bits,
            "checks": self.checks,
            "reference": lambda found: reference(found, self.checkpoint, 3),
            "memory": self.memory,
            "profile": self.profile,
            "parts": self.parts,
            "fp8": partial(self.fewer_bits, "fp8"),
            "profile_fp8": self.profile,
            "fp8_all": lambda found: self.fewer_bits("fp8", found, rest="fp8"),
            "profile_fp8_all": self.profile,
            "int4_all": lambda found: self.fewer_bits("int4", found, rest="fp8"),
            "passes": self.passes,
            "int8": partial(self.fewer_bits, "int8"),
            "throughput": self.throughput,
            "compiled-decode": lambda found: compiled_decode(found, self.checkpoint, 10),
        }


def _features(frame: Frame) -> tuple[torch.Tensor, torch.Tensor]:
    return frame.encoders.semantic(frame.semantic), frame.encoders.pixel(frame.pixels)


def place(embeddings: torch.nn.Module, device: str) -> None:
    """Move a table of embeddings."""
    embeddings.weight = torch.nn.Parameter(embeddings.weight.to(device), requires_grad=False)


def clock() -> dict[str, Any]:
    """The clock and the power just after work, where the driver tells."""
    try:
        return {"mhz": torch.cuda.clock_rate(), "w": torch.cuda.power_draw() / 1e3, "c": torch.cuda.temperature()}
    except Exception as failure:
        return {"error": str(failure)[:200]}


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=("7b", "0.5b", "tiny"), default="7b")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--reduce", action="store_true", help="few narrow layers: to try the script")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=DEFAULT)
    parser.add_argument("--seconds", type=float, default=240, help="wall-clock budget of this process")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--images", type=int, default=6, help="that answers are checked on")
    parser.add_argument("--eager", action="store_true", help="compile nothing")
    parser.add_argument("--kernels", nargs="+", default=list(attention.TRIED), help="attention kernels to choose from")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    attention.TRIED = tuple(options.kernels)
    Compiled.on = not options.eager
    allow_compiling()
    record = Record(options.out, options.seconds, preset=options.preset, dtype=options.dtype, reduced=options.reduce)
    wanted = [step for step in STEPS if step in options.steps and not record.done(step)]
    if not [step for step in wanted if step != "build"] and record.done("build"):
        return
    bench = Bench(options)
    steps = bench.steps()
    with torch.inference_mode():
        if "peaks" in wanted:
            record.run("peaks", STEPS["peaks"], steps["peaks"])
        record.found["steps"].pop("build", None)  # every process builds
        with torch.inference_mode(False), torch.no_grad():
            built = record.run("build", STEPS["build"], steps["build"])
        if not built:
            sys.exit(UNUSABLE)
        for step in wanted:
            if step not in ("peaks", "build"):
                record.run(step, STEPS[step], steps[step])


if __name__ == "__main__":
    main()
