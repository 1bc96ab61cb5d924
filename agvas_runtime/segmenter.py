"""The segmenter: a bundle's graphs in a row, from a frame to a verdict. It knows no gRPC and no graph's inside.

Direct segmentation takes one pass of the language model: prompt and template trie together yield the model's own greedy
token at every place an answer can pass, and the anchors' states with them.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from mmap import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.bundle import Bundle, default_bundle_path
from agvas_runtime.engines import Array, Engine, Feed, Tensors, release
from agvas_runtime.engines.ort import OrtEngine
from agvas_runtime.engines.registry import OF_BUNDLES, check_mode
from agvas_runtime.errors import BundleError, InputError
from agvas_runtime.frames import decode_image, read_bytes
from agvas_runtime.manifest import Manifest, TensorSpec, weights_note
from agvas_runtime.maps import binarise, to_image_size
from agvas_runtime.modes import Mode, Request
from agvas_runtime.plan import PassPlan, plan_pass
from agvas_runtime.prompts import Prompter
from agvas_runtime.regions import find_regions
from agvas_runtime.result import AnswerKind, Result, Scores
from agvas_runtime.templates import read_templates
from agvas_runtime.trie import ROOT_ROW, Trie, Walk, walk
from agvas_runtime.verdict import Recipe, judge

GRAPHS = ("semantic_encoder", "pixel_encoder", "spam", "llm", "decoder")
PLANS_KEPT_BYTES = 32 * 2**20
"""Instructions' passes stay prepared up to this much memory, the last used ones."""

COUNTED = {"T": "tokens", "R": "places to answer at", "E": "steps between them"}
"""What the dimensions count that an instruction makes long or short."""
Ranges = Mapping[str, tuple[int, int, int]]

Image = NDArray[np.uint8] | bytes | Path | str


class Stopwatch:
    """Milliseconds of named stages, in order."""

    def __init__(self) -> None:
        self.timings_ms: dict[str, float] = {}
        self._start = self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """End the stage that began when the last one ended."""
        now = time.perf_counter()
        self.timings_ms[stage] = (now - self._last) * 1e3
        self._last = now

    def done(self) -> dict[str, float]:
        """All stages and their total."""
        return {**self.timings_ms, "total": (self._last - self._start) * 1e3}


class Segmenter:
    """Runs a bundle on frames, one at a time. Not thread-safe: callers take turns."""

    def __init__(self, bundle: Bundle, engines: dict[str, Engine], ranges: Ranges | None = None) -> None:
        """Take the engines of `GRAPHS`, and what they were built for where that is not everything, see `check_sizes`.

        Raises BundleError where the bundle's parts do not fit each other.
        """
        self.bundle = bundle
        self._ranges = ranges or {}
        self.manifest: Manifest = bundle.manifest
        self.prompter = Prompter(bundle.tokenizer_json, self.manifest.prompt)
        self.templates = read_templates(bundle.templates)
        self._engines = engines
        self._embeddings = bundle.embeddings()
        if len(self._embeddings) < self.prompter.vocabulary_size:
            found = f"{len(self._embeddings)} token embeddings for {self.prompter.vocabulary_size} tokens"
            raise BundleError(f"{bundle.folder}: found {found}")
        self._alpha = np.array(self.manifest.model.alpha, np.float32)
        self._plans: OrderedDict[str, tuple[PassPlan, Tensors]] = OrderedDict()
        self.weights_note = weights_note(self.manifest.source.random_weights, self.manifest.source.plant)

    @classmethod
    def open(cls, path: Path | str | None = None, *, engine: str = "ort", threads: int | None = None) -> Segmenter:
        """Verify and load a bundle (None: the embedded one).

        Args:
            path: the bundle's folder.
            engine: "ort", ONNX Runtime on the CPU; "tensorrt", the native engines that `agvas-runtime build` made.
            threads: threads a graph may use on the CPU; None takes every core.

        Raises:
            BundleError: the bundle is incomplete, altered, unsafe or too new.
            InputError: there is no such engine, or the bundle was not made for it.
            EngineError: the engines are missing, or made for another device.
        """
        if engine not in OF_BUNDLES:
            raise InputError(f"engine {engine!r} does not run bundles; expected {' or '.join(map(repr, OF_BUNDLES))}")
        return cls.of(Bundle.open(path or default_bundle_path()), engine=engine, threads=threads)

    @classmethod
    def of(
        cls,
        bundle: Bundle,
        *,
        engine: str = "ort",
        threads: int | None = None,
        plans: Mapping[str, mmap] | None = None,
    ) -> Segmenter:
        """As `open`, for a bundle that is verified already; `plans` are what `native.read_plans` gave, if it was asked.

        Raises InputError, BundleError or EngineError.
        """
        if engine != "tensorrt":
            return cls(bundle, {name: OrtEngine(bundle.graph_path(name), threads) for name in GRAPHS})
        from agvas_runtime.engines.native import open_engines

        engines, plan = open_engines(bundle, GRAPHS, threads, plans), bundle.manifest.engine_plan
        return cls(bundle, engines, plan.ranges if plan and "llm" in plan.graphs else None)

    def close(self) -> None:
        """Give the engines' memory back; nothing can be segmented then.

        Raises the first EngineError after all were closed.
        """
        release(*(engine.close for engine in self._engines.values()))

    def warm(self) -> None:
        """Run every graph once, whatever the answer, so that the first real frame finds everything loaded."""
        model = self.manifest.model
        black = np.zeros((model.canvas, model.canvas, 3), np.uint8)
        self.segment(black)
        pixels, _ = self.manifest.preprocessing.pixel.apply(black)
        pixel = self._engines["pixel_encoder"].run({"pixels": pixels})["features"]
        self._decode(np.zeros((1, 3, model.hidden_size), np.float32), pixel)

    def segment(
        self,
        image: Image,
        instruction: str | None = None,
        recipe: Recipe | None = None,
        *,
        mode: Mode = Mode.DIRECT,
        class_name: str | None = None,
        normal_look: str | None = None,
    ) -> Result:
        """Segment one image.

        Args:
            image: uint8 RGB [H, W, 3], an encoded image, or a file.
            instruction: what to look for; the bundle's default instruction when None.
            recipe: what counts as a defect.
            mode: direct; bundles have no other mode yet.
            class_name: what to look for, put into the default instruction.
            normal_look: for modes that bundles do not have.

        Returns:
            The result, map and mask at the upright image's own size. An answer that leaves the templates has
            answer_kind "other" and verdict NO_ANSWER.

        Raises:
            InputError: the image, the instruction or the mode is not usable.
            EngineError: a graph failed.
        """
        check_mode("ort", mode)
        request = Request(mode, instruction, class_name, normal_look)
        asked = request.text(self.templates, self.manifest.prompt.default_instruction)
        watch = Stopwatch()
        frame = decoded(image)
        watch.lap("decode")
        views = self.manifest.preprocessing
        semantic_pixels = views.semantic.apply(frame)
        pixels, resized = views.pixel.apply(frame)
        watch.lap("preprocess")
        semantic = self._engines["semantic_encoder"].run({"pixels": semantic_pixels})["features"]
        self._engines["semantic_encoder"].synchronize()  # the time is the stage's own
        watch.lap("semantic_encoder")
        pixel = self._engines["pixel_encoder"].run({"pixels": pixels})["features"]
        self._engines["pixel_encoder"].synchronize()
        watch.lap("pixel_encoder")
        visual = self._engines["spam"].run({"semantic": semantic, "pixel": pixel})["visual"]
        self._engines["spam"].synchronize()
        watch.lap("spam")
        plan, constant = self._plan(asked)
        llm = self._engines["llm"].run(_llm_feeds(constant, visual))
        greedy, edges, margin = (np.asarray(llm[name])[0] for name in ("greedy", "edge_logprob", "margin"))
        walked = walk(plan.trie, greedy, self.prompter.end_id)
        scores = path_scores(plan.trie, walked, edges, margin)
        watch.lap("llm")
        kind = walked.answer.kind if walked.answer else AnswerKind.OTHER
        small = None
        if walked.answer and kind is AnswerKind.SEGMENTED:
            states = np.asarray(llm["states"])[:, self._anchor_rows(walked.answer.tokens, walked.rows)]
            small = self._decode(states, pixel)
        watch.lap("decoder")
        size = (frame.shape[0], frame.shape[1])
        probability = np.zeros(size, np.float32)
        if small is not None:
            probability = to_image_size(small, self.manifest.model.canvas, resized, size)
        text = walked.answer.text if walked.answer else self._left_text(plan.trie, walked, greedy)
        threshold = self.manifest.model.threshold
        return finish(probability, kind, text, scores, threshold, recipe or Recipe(), watch, instruction=asked)

    def _decode(self, states: NDArray[np.float32], pixel: Array) -> NDArray[np.float32]:
        """The map [m, m] of one group of anchors' states [1, 3, d] on the pixel encoder's features."""
        group = {"states": states, "present": np.ones((1, 3), np.float32), "pixel": pixel, "alpha": self._alpha}
        small: NDArray[np.float32] = np.asarray(self._engines["decoder"].run(group)["map"])[0]
        return small

    def _plan(self, instruction: str) -> tuple[PassPlan, Tensors]:
        """The prepared pass of an instruction and its constant feeds; the text embeddings are looked up here, once.

        Raises InputError where the engines were not built for one as long.
        """
        if instruction in self._plans:
            self._plans.move_to_end(instruction)
            return self._plans[instruction]
        plan = plan_pass(instruction, self.prompter, self.templates, self.manifest.model.visual_tokens)
        sizes = {
            "position_ids": plan.position_ids.shape,
            "rows": plan.rows.shape,
            "edge_rows": plan.trie.edge_rows.shape,
        }
        check_sizes(self.manifest.graphs["llm"].inputs, sizes, self._ranges)
        feeds: Tensors = {
            "before": self._embeddings[plan.before].astype(np.float32)[None],
            "after": self._embeddings[plan.after].astype(np.float32)[None],
            "position_ids": plan.position_ids,
            "attention_bias": plan.attention_bias,
            "rows": plan.rows,
            "edge_rows": plan.trie.edge_rows,
            "edge_tokens": plan.trie.edge_tokens,
        }
        for value in feeds.values():
            value.setflags(write=False)  # an engine may keep what cannot change
        self._plans[instruction] = plan, feeds
        while len(self._plans) > 1 and sum(map(_size, self._plans.values())) > PLANS_KEPT_BYTES:
            self._plans.popitem(last=False)
        return plan, feeds

    def _anchor_rows(self, tokens: tuple[int, ...], rows: tuple[int, ...]) -> list[int]:
        """Rows of the states that stand for NOR, ANO and SEG; `rows` begins with the root's."""
        shift = 1 if self.manifest.model.anchor_state == "token" else 0
        return [rows[tokens.index(anchor) + shift] for anchor in self.prompter.anchor_ids]

    def _left_text(self, trie: Trie, walked: Walk, greedy: NDArray[np.int64]) -> str:
        """What greedy decoding had written when it left the templates, the odd token included."""
        written = [int(trie.tokens[row - 1]) for row in walked.rows if row != ROOT_ROW]
        return self.prompter.decode([*written, int(greedy[walked.rows[-1]])])


def _llm_feeds(constant: Tensors, visual: Array) -> dict[str, Feed]:
    """The feeds of a pass; the embeddings are put together by the engine, where the visual tokens already lie."""
    feeds: dict[str, Feed] = {name: value for name, value in constant.items() if name not in ("before", "after")}
    return {**feeds, "inputs_embeds": (constant["before"], visual, constant["after"])}


def check_sizes(inputs: Iterable[TensorSpec], shapes: Mapping[str, tuple[int, ...]], ranges: Ranges) -> None:
    """Raise InputError where an instruction's pass is longer or shorter than its engines were built for.

    Args:
        inputs: of the language model's graph.
        shapes: of those of them that the instruction makes long or short.
        ranges: name of a dimension to its smallest, usual and largest size; one that is not named may have any.
    """
    for spec in inputs:
        for name, size in zip(spec.shape, shapes.get(spec.name, ()), strict=False):
            if not isinstance(name, str) or name not in ranges:
                continue
            low, _, high = ranges[name]
            if not low <= size <= high:
                passes = f"its pass has {size} {COUNTED.get(name, name)}"
                raise InputError(f"instruction: {passes}, the engines take {low}..{high}; use --engine ort")


def _size(prepared: tuple[PassPlan, Tensors]) -> int:
    return sum(value.nbytes for value in prepared[1].values())


def decoded(image: Image) -> NDArray[np.uint8]:
    """The frame as uint8 RGB [H, W, 3]; raises InputError naming what was found."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise InputError(f"image: found {image.dtype} {list(image.shape)}, expected uint8 RGB [H, W, 3]")
        return image
    if isinstance(image, bytes):
        return decode_image(image, "image")
    if isinstance(image, str | Path):
        return decode_image(read_bytes(image), str(image))
    raise InputError(f"image: found {type(image).__name__}, expected an array, bytes, or a path")


def path_scores(trie: Trie, walked: Walk, edge_logprob: NDArray[np.floating], margin: NDArray[np.floating]) -> Scores:
    """Probabilities of the answers by their paths' products, and the smallest margin on the way that was taken."""
    probabilities = {AnswerKind.SEGMENTED: 0.0, AnswerKind.REJECTED: 0.0}
    for answer in trie.answers:
        probabilities[answer.kind] += float(np.exp(edge_logprob[list(answer.edges)].sum(dtype=np.float64)))
    p_answer, p_reject = probabilities[AnswerKind.SEGMENTED], probabilities[AnswerKind.REJECTED]
    known = p_answer + p_reject
    return Scores(
        p_answer=p_answer,
        p_reject=p_reject,
        p_other=max(1.0 - known, 0.0),
        anomaly=p_answer / known if known > 0 else 0.5,
        min_margin=float(margin[list(walked.rows)].min()),
    )


def finish(
    probability: NDArray[np.float32],
    kind: AnswerKind,
    text: str,
    scores: Scores,
    threshold: float,
    recipe: Recipe,
    watch: Stopwatch,
    *,
    instruction: str,
    no_answer: str = "the answer left the templates",
    group_maps: tuple[NDArray[np.float32], ...] = (),
) -> Result:
    """Mask, regions and verdict from the map at the image's size; the end of every engine's way.

    `no_answer` is the reason where the answer is neither a segmentation nor a rejection; the text follows it.
    """
    mask = binarise(probability, threshold)
    regions = find_regions(mask, probability)
    verdict, reason = judge(kind, regions, recipe)
    if kind is AnswerKind.OTHER:
        reason = f"{no_answer}: {text!r}"
    watch.lap("postprocess")
    return Result(
        verdict, reason, text, kind, probability, mask, regions, scores, watch.done(), instruction, group_maps
    )
