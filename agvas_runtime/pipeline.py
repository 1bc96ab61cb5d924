"""A bundle's graphs in a row: frames to what encoders and one pass of the language model give, anchors' states to maps.

It knows tensors, and nothing of modes, texts or verdicts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.bundle import Bundle
from agvas_runtime.cpu import LARGE_PIXELS, usable_cores
from agvas_runtime.engines import Array, Engine, Tensors, release
from agvas_runtime.engines.ort import OrtEngine
from agvas_runtime.engines.ort_bound import BoundEngine
from agvas_runtime.errors import BundleError, EngineError, InputError
from agvas_runtime.manifest import Manifest, TensorSpec
from agvas_runtime.maps import AnomalyMap, Box
from agvas_runtime.modes import AnchorGroup
from agvas_runtime.outcome import Stopwatch
from agvas_runtime.plan import Known, PassPlan, plan_pass
from agvas_runtime.preprocess import both_views
from agvas_runtime.prompts import Prompter
from agvas_runtime.templates import read_templates
from agvas_runtime.writer import NOT_FINITE, Pass, step

GRAPHS = ("semantic_encoder", "pixel_encoder", "spam", "llm", "decode", "decoder")
PLANS_KEPT_BYTES = 32 * 2**20
"""Instructions' passes stay prepared up to this much memory, the last used ones."""

COUNTED = {
    "S": "tokens before the image",
    "T": "tokens behind the image",
    "K": "places to answer at",
    "E": "steps between them",
}
"""What the dimensions count that an instruction makes long or short."""
GROUPS_AT_ONCE = 8
"""Groups of anchors that the mask decoder takes in one run."""
Ranges = Mapping[str, tuple[int, int, int]]

States = Sequence[NDArray[Any]]
"""Last-layer states [d] of an answer: of the last prompt token, then of the answer's tokens."""


@dataclass(frozen=True)
class Seen:
    """What encoders and pass gave for frames that are asked the same.

    Attributes:
        asked: the instruction.
        frames: uint8 RGB [H, W, 3] each.
        resized: (h, w) that each takes on the pixel encoder's canvas.
        pixel: f_p [B, C, g, g].
        visual: the visual tokens [B, V, d].
        passes: each frame's share of the pass.
        edge_logprob: float [B, E], of the trie's edges.
    """

    asked: str
    plan: PassPlan
    frames: Sequence[NDArray[np.uint8]]
    resized: Sequence[tuple[int, int]]
    pixel: Array
    visual: Array
    passes: Sequence[Pass]
    edge_logprob: NDArray[np.floating[Any]]

    def on_host(self) -> Seen:
        """The same, for keeping while others use the engines: whatever may be read later is in the host's memory."""
        passes = [replace(each, past={k: np.asarray(v) for k, v in each.past.items()}) for each in self.passes]
        return replace(self, pixel=np.asarray(self.pixel), visual=np.asarray(self.visual), passes=passes)


class Pipeline:
    """The engines of `GRAPHS` and the prepared passes. Not thread-safe."""

    def __init__(
        self,
        bundle: Bundle,
        engines: Mapping[str, Engine],
        ranges: Ranges | None = None,
        threads: int | None = None,
    ) -> None:
        """Take the engines, and what they were built for where that is not everything, see `check_sizes`.

        Frames are resized by so many threads, and maps; None takes every core.

        Raises BundleError where the bundle's parts do not fit each other.
        """
        self.manifest = bundle.manifest
        self.engines = engines
        self.prompter = Prompter(bundle.tokenizer_json, self.manifest.prompt)
        self.templates = read_templates(bundle.templates)
        self.templates.check_anchors(self.manifest.prompt.anchors, name=str(bundle.templates))
        if fault := spec_fault(self.manifest):
            raise BundleError(f"{bundle.folder}: {fault}")
        self._ranges = ranges or {}
        self._embeddings = bundle.embeddings()
        if len(self._embeddings) < self.prompter.vocabulary_size:
            found = f"{len(self._embeddings)} token embeddings for {self.prompter.vocabulary_size} tokens"
            raise BundleError(f"{bundle.folder}: found {found}")
        self._plans: OrderedDict[tuple[str, Known], tuple[PassPlan, Tensors]] = OrderedDict()
        encoders = (engines[name] for name in ("semantic_encoder", "pixel_encoder"))
        # TensorRT's engines share a stream and only enqueue, from one thread
        self._apart = all(isinstance(each, OrtEngine | BoundEngine) for each in encoders)
        self._threads = threads or usable_cores()
        self._hands = ThreadPoolExecutor(self._threads, "hand")
        self._closed = False

    def close(self) -> None:
        """Give the engines' memory back. Raises the first EngineError after all were closed."""
        self._closed = True
        self._hands.shutdown()
        release(*(engine.close for engine in self.engines.values()))

    def see(self, frames: Sequence[NDArray[np.uint8]], asked: str, known: Known, watch: Stopwatch) -> Seen:
        """Both views, encoders, SPAM and the pass, all frames (uint8 RGB [H, W, 3]) in one run of every graph.

        Raises InputError where the engines were not built for as long an instruction or as many frames, EngineError.
        """
        if self._closed:
            raise EngineError("the engines are closed")
        plan, _ = self._plan(asked, known, len(frames))
        views = self.manifest.preprocessing
        seen = (both_views(frame, views.semantic, views.pixel, self.hands_for(frame)) for frame in frames)
        squashed, fitted, resized = zip(*seen, strict=True)
        watch.lap("preprocess")
        semantic, pixel = self._encode(_joined(squashed), _joined(fitted))
        watch.lap("encoders")
        visual = self.engines["spam"].run({"semantic": semantic, "pixel": pixel})["visual"]
        self.engines["spam"].synchronize()  # the time is the stage's own
        watch.lap("spam")
        passes, edges = self._pass(asked, known, visual)
        watch.lap("llm")
        return Seen(asked, plan, frames, resized, pixel, visual, passes, edges)

    def plainly(self, seen: Seen, frame: int) -> Seen:
        """A frame's pass again, alone and with no known answer tried. Raises EngineError."""
        plan, _ = self._plan(seen.asked, Known.NOTHING, 1)
        passes, edges = self._pass(seen.asked, Known.NOTHING, np.asarray(seen.visual)[frame : frame + 1])
        return replace(seen, plan=plan, passes=passes, edge_logprob=edges)

    def maps(
        self, seen: Seen, groups: Sequence[tuple[int, AnchorGroup, States]], alpha: float
    ) -> list[NDArray[np.float32]]:
        """The map [m, m] of each (frame, group of anchors, its answer's states); absent anchors are masked.

        `alpha` is the share of [SEG]'s map, the same for all: the graph takes one. Raises EngineError.
        """
        most = self._ranges.get("G", (1, 1, GROUPS_AT_ONCE))[2]
        shift = 1 if self.manifest.model.anchor_state == "token" else 0
        maps: list[NDArray[np.float32]] = []
        for start in range(0, len(groups), most):
            some = groups[start : start + most]
            states = np.zeros((len(some), 3, self.manifest.model.hidden_size), np.float32)
            present = np.zeros((len(some), 3), np.float32)
            for row, (_, group, of_answer) in enumerate(some):
                for kind, place in group:
                    states[row, kind], present[row, kind] = of_answer[place + shift], 1
            frames = [frame for frame, *_ in some]
            pixel = seen.pixel if frames == list(range(len(seen.frames))) else np.asarray(seen.pixel)[frames]
            feeds = {"states": states, "present": present, "pixel": pixel, "alpha": np.array(alpha, np.float32)}
            maps.extend(np.asarray(self.engines["decoder"].run(feeds)["map"]))
        if not all(np.isfinite(each).all() for each in maps):
            raise EngineError(
                "graph decoder: the map holds numbers that are not finite: weights or precision are at fault"
            )
        return maps

    def at_image_size(self, seen: Seen, frame: int, small: NDArray[np.float32], roi: Box | None = None) -> AnomalyMap:
        """A map [m, m] at the frame's own size, [H, W], 0 outside the region of interest."""
        height, width = seen.frames[frame].shape[:2]
        return AnomalyMap(small, self.manifest.model.canvas, seen.resized[frame], (height, width), roi)

    def embed(self, token: int) -> NDArray[np.float32]:
        """A token's embedding, float32 [d]."""
        embedding: NDArray[np.float32] = self._embeddings[token].astype(np.float32)
        return embedding

    def warm(self, asked: str, known: Known, frames: int) -> None:
        """Run every graph in the shapes of so many frames that are asked this. Raises InputError, EngineError."""
        model = self.manifest.model
        black = np.zeros((model.canvas, model.canvas, 3), np.uint8)
        seen = self.see([black] * frames, asked, known, Stopwatch())
        length = seen.plan.prompt_length
        past = seen.passes[0].behind((0,), length)
        step(self.engines["decode"], self.embed(self.prompter.end_id), length, past)
        zero = np.zeros(model.hidden_size, np.float32)
        group = tuple((kind, 0) for kind in range(3))
        for groups in range(1, min(frames, GROUPS_AT_ONCE) + 1):
            self.maps(seen, [(frame, group, [zero] * 2) for frame in range(groups)], model.alpha)

    def hands_for(self, frame: NDArray[np.uint8]) -> Executor | None:
        """Whoever helps with a frame of this size."""
        height, width = frame.shape[:2]
        return self._hands if self._threads > 1 and height * width >= LARGE_PIXELS else None

    def _encode(self, semantic_pixels: NDArray[np.float32], pixels: NDArray[np.float32]) -> tuple[Array, Array]:
        """Both encoders' features. They do not depend on each other: side by side, or enqueued one behind the other."""
        semantic_run = partial(self.engines["semantic_encoder"].run, {"pixels": semantic_pixels})
        beside = self._hands.submit(semantic_run) if self._apart else None
        try:
            pixel = self.engines["pixel_encoder"].run({"pixels": pixels})["features"]
        finally:
            if beside:
                wait([beside])  # else the next frame would meet the engine at work where this one fails
        semantic = (beside.result() if beside else semantic_run())["features"]
        for name in ("semantic_encoder", "pixel_encoder"):
            self.engines[name].synchronize()
        return semantic, pixel

    def _pass(self, asked: str, known: Known, visual: Array) -> tuple[list[Pass], NDArray[np.floating[Any]]]:
        """The pass of every frame, and the edges' log-probabilities [B, E]."""
        _, constant = self._plan(asked, known, visual.shape[0])
        out = self.engines["llm"].run({**constant, "visual": visual})
        greedy, margin, states = (np.asarray(out[name]) for name in ("greedy", "margin", "states"))
        past = {name: out[name] for name in ("keys", "values")}
        passes = [Pass(greedy[frame], margin[frame], states[frame], past, frame) for frame in range(len(greedy))]
        edges = np.asarray(out["edge_logprob"])
        if np.isnan(edges).any():
            raise EngineError(NOT_FINITE)
        return passes, edges

    def _plan(self, instruction: str, known: Known, frames: int) -> tuple[PassPlan, Tensors]:
        """The prepared pass of an instruction and its constant feeds; the text embeddings are looked up here, once.

        Raises InputError where the engines were not built for one as long, or for so many frames.
        """
        key = (instruction, known)
        if key not in self._plans:
            plan = plan_pass(instruction, self.prompter, self.templates, self.manifest.model.visual_tokens, known)
            feeds: Tensors = {
                **{
                    name: self._embeddings[ids].astype(np.float32)[None]
                    for name, ids in (("before", plan.before), ("after", plan.after), ("nodes", plan.trie.tokens))
                },
                "depths": plan.trie.depths,
                "node_bias": plan.node_bias,
                "edge_rows": plan.trie.edge_rows,
                "edge_tokens": plan.trie.edge_tokens,
            }
            check_sizes(self.manifest.graphs["llm"].inputs, feeds, self._ranges)
            for value in feeds.values():
                value.setflags(write=False)  # an engine may keep what cannot change
            self._plans[key] = plan, feeds
            while len(self._plans) > 1 and sum(map(_size, self._plans.values())) > PLANS_KEPT_BYTES:
                self._plans.popitem(last=False)
        self._plans.move_to_end(key)
        low, _, high = self._ranges.get("B", (1, 1, frames))
        if not low <= frames <= high:
            raise InputError(f"found {frames} frames at once, the engines take {low}..{high}; use --engine ort")
        return self._plans[key]


def spec_fault(manifest: Manifest) -> str | None:
    """The first tensor of a graph that the manifest's own numbers do not fit, in words; None where all do."""
    for graph, wanted in _shapes(manifest).items():
        spec = manifest.graphs.get(graph)
        found = {each.name: each.shape for each in (*spec.inputs, *spec.outputs)} if spec else {}
        for name, shape in wanted.items():
            if name not in found:
                return f"graph {graph} has no tensor {name}"
            if len(found[name]) != len(shape) or not all(map(_fits, found[name], shape)):
                asked = ", ".join("any" if size is None else str(size) for size in shape)
                given = ", ".join(map(str, found[name]))
                return f"graph {graph}: {name} is [{given}], by the manifest's model and preprocessing it is [{asked}]"
    return None


def _fits(found: int | str, wanted: int | None) -> bool:
    """Whether a tensor's size may be the wanted one: one with a name varies, and 0 is how the export says unknown."""
    return wanted is None or isinstance(found, str) or found in (0, wanted)


def _shapes(manifest: Manifest) -> dict[str, dict[str, tuple[int | None, ...]]]:
    """Graph to tensor to the shape that the pipeline feeds or reads; None where any size will do."""
    model, semantic = manifest.model, manifest.preprocessing.semantic.size
    width, visual, canvas, side = model.hidden_size, model.visual_tokens, model.canvas, model.map_size
    text, row = (1, None, width), (None,)
    return {
        "semantic_encoder": {"pixels": (None, 3, semantic, semantic)},
        "pixel_encoder": {"pixels": (None, 3, canvas, canvas)},
        "spam": {"visual": (None, visual, width)},
        "llm": {
            **dict.fromkeys(("before", "after", "nodes"), text),
            **dict.fromkeys(("depths", "edge_rows", "edge_tokens"), row),
            "visual": (None, visual, width),
            "node_bias": (None, None),
        },
        "decode": {"inputs_embeds": (None, 1, width)},
        "decoder": {"states": (None, 3, width), "present": (None, 3), "map": (None, side, side)},
    }


def check_sizes(inputs: Iterable[TensorSpec], feeds: Mapping[str, NDArray[Any]], ranges: Ranges) -> None:
    """Raise InputError where an instruction's pass is longer or shorter than its engines were built for.

    Args:
        inputs: of the language model's graph.
        feeds: those of them that the instruction makes long or short.
        ranges: name of a dimension to its smallest, usual and largest size; one that is not named may have any.
    """
    for spec in (spec for spec in inputs if spec.name in feeds):
        for name, size in zip(spec.shape, feeds[spec.name].shape, strict=True):
            if not isinstance(name, str) or name not in ranges:
                continue
            low, _, high = ranges[name]
            if not low <= size <= high:
                passes = f"its pass has {size} {COUNTED.get(name, name)}"
                raise InputError(f"instruction: {passes}, the engines take {low}..{high}; use --engine ort")


def _size(prepared: tuple[PassPlan, Tensors]) -> int:
    return sum(value.nbytes for value in prepared[1].values())


def _joined(views: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    return views[0] if len(views) == 1 else np.concatenate(views)
