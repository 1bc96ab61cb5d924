"""The segmenter: from an image and a request to a verdict. It knows no gRPC and no graph's inside.

One pass of the language model over prompt and template trie yields the model's own greedy token at every place a known
answer can pass, and the anchors' states with them; `writer.py` goes on from there where an answer is none of these.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from mmap import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.bundle import Bundle, default_bundle_path
from agvas_runtime.engines import Engine, release
from agvas_runtime.engines.registry import OF_BUNDLES
from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.frames import AnyImage, decoded
from agvas_runtime.manifest import weights_note
from agvas_runtime.maps import AnomalyMap, merged, window
from agvas_runtime.modes import AnchorGroup, Mode, Request
from agvas_runtime.outcome import Stopwatch, finish, path_scores
from agvas_runtime.pipeline import GRAPHS, Pipeline, Ranges, Seen
from agvas_runtime.plan import Known
from agvas_runtime.result import Result
from agvas_runtime.teller import Teller, Told, never
from agvas_runtime.verdict import Recipe
from agvas_runtime.writer import Answer, Decoding


@dataclass(frozen=True)
class Text:
    """A further piece of the answer, as it is written; anchors are part of it."""

    text: str


@dataclass(frozen=True)
class GroupMap:
    """The map of a group of anchors, as soon as the group is written.

    Attributes:
        index: which group of the answer, from 0.
        probability: float32 [H, W] in [0, 1], at the upright image's size; 0 outside the recipe's ROI.
    """

    index: int
    probability: NDArray[np.float32]


OF_EVERY_GRAPH = ("B", "G")
"""Sizes that all native engines are limited in: frames and groups of anchors at once; the rest is the LLM's."""

Event = Text | GroupMap | Result
"""What `Segmenter.stream` yields; the result comes last."""


class Segmenter:
    """Runs a bundle on frames. Not thread-safe: callers take turns; a stream may wait while others have theirs."""

    def __init__(
        self,
        bundle: Bundle,
        engines: dict[str, Engine],
        ranges: Ranges | None = None,
        *,
        threads: int | None = None,
        speculate: bool = True,
    ) -> None:
        """Take the engines of `GRAPHS`, and what they were built for where that is not everything, see `check_sizes`.

        Frames and maps are resized by so many threads; None takes every core.

        Without `speculate` no known answers are tried: plain decoding, token by token, to compare with.

        Raises BundleError where the bundle's parts do not fit each other.
        """
        self.bundle, self.manifest = bundle, bundle.manifest
        self.pipeline = Pipeline(bundle, engines, ranges, threads)
        self.prompter, self.templates = self.pipeline.prompter, self.pipeline.templates
        self._speculate = speculate
        self.weights_note = weights_note(self.manifest.source.random_weights, self.manifest.source.plant)

    @classmethod
    def open(
        cls,
        path: Path | str | None = None,
        *,
        engine: str = "ort",
        threads: int | None = None,
        speculate: bool = True,
    ) -> Segmenter:
        """Verify and load a bundle (None: the embedded one).

        Args:
            path: the bundle's folder.
            engine: "ort", ONNX Runtime on the CPU; "ort-cuda", the same on a GPU; "tensorrt", the native engines that
                `agvas-runtime build` made.
            threads: threads a graph may use on the CPU; None takes every core.
            speculate: as for the class.

        Raises:
            BundleError: the bundle is incomplete, altered, unsafe or too new.
            InputError: there is no such engine, or the bundle was not made for it.
            EngineError: the engines are missing, or made for another device; an execution provider is missing.
        """
        if engine not in OF_BUNDLES:
            raise InputError(f"engine {engine!r} does not run bundles; expected {' or '.join(map(repr, OF_BUNDLES))}")
        bundle = Bundle.open(path or default_bundle_path())
        return cls.of(bundle, engine=engine, threads=threads, speculate=speculate)

    @classmethod
    def of(
        cls,
        bundle: Bundle,
        *,
        engine: str = "ort",
        threads: int | None = None,
        plans: Mapping[str, mmap] | None = None,
        speculate: bool = True,
    ) -> Segmenter:
        """As `open`, for a bundle that is verified already; `plans` are what `native.read_plans` gave, if it was asked.

        Raises InputError, BundleError or EngineError.
        """
        from agvas_runtime.engines.native import open_engines

        engines, plan = open_engines(bundle, engine, GRAPHS, threads, plans), bundle.manifest.engine_plan
        ranges = dict(plan.ranges) if engine == "tensorrt" and plan else {}
        if plan and "llm" not in plan.graphs:
            ranges = {size: ranges[size] for size in OF_EVERY_GRAPH if size in ranges}
        try:
            return cls(bundle, engines, ranges or None, threads=threads, speculate=speculate)
        except BaseException:
            with suppress(EngineError):  # the first error says more
                release(*(each.close for each in engines.values()))
            raise

    def close(self) -> None:
        """Give the engines' memory back; nothing can be segmented then.

        Raises the first EngineError after all were closed.
        """
        self.pipeline.close()

    def warm(
        self,
        requests: Sequence[Request] = (Request(),),
        batches: Sequence[int] = (1,),
        decoding: Decoding = Decoding(),
    ) -> None:
        """Run every graph in every shape, whatever the answers, so that no real frame is the first of its kind.

        Args:
            requests: those that will be asked; their passes are prepared, the last ones stay.
            batches: how many frames will be segmented together.
            decoding: how their answers will be written.

        Raises InputError for a request that is not usable, EngineError.
        """
        for request in requests:
            asked, known = self._asked(request, decoding)
            for count in batches:
                self.pipeline.warm(asked, known, count)
            if decoding.strict_below is not None:
                self.pipeline.warm(asked, Known.NOTHING, 1)

    def segment(
        self,
        image: AnyImage,
        instruction: str | None = None,
        recipe: Recipe | None = None,
        *,
        mode: Mode = Mode.DIRECT,
        class_name: str | None = None,
        normal_look: str | None = None,
        decoding: Decoding = Decoding(),
        cancelled: Callable[[], bool] = never,
    ) -> Result:
        """Segment one image, or talk about it.

        Args:
            image: uint8 RGB [H, W, 3] or grey [H, W], an encoded image, or a file.
            instruction: the user's own instruction or question; the mode's when None.
            recipe: what counts as a defect; its threshold, alpha and ROI take the place of the bundle's.
            mode: what the model is asked for.
            class_name: what to look for, put into the mode's instruction.
            normal_look: a sentence on the normal look of the object, for describe-plus.
            decoding: how the answer is written.
            cancelled: asked before every token that is decoded; true ends it.

        Returns:
            The result, map and mask at the upright image's own size. A conversation, an answer that the token limit
            stopped, and a text without anchors that is no rejection have verdict NO_ANSWER.

        Raises:
            InputError: the image, the instruction or the mode is not usable, or the ROI lies outside the image.
            EngineError: a graph failed.
            Cancelled: it is not wanted any more.
        """
        request = Request(mode, instruction, class_name, normal_look)
        return self.segment_batch([image], request, recipe, decoding=decoding, cancelled=cancelled)[0]

    def segment_batch(
        self,
        images: Sequence[AnyImage],
        request: Request = Request(),
        recipe: Recipe | Sequence[Recipe] | None = None,
        *,
        decoding: Decoding = Decoding(),
        cancelled: Callable[[], bool] = never,
        whole_maps: bool = False,
    ) -> list[Result]:
        """Segment several images that are asked the same, in one run of every graph; answers and errors of `segment`.

        What the pass leaves to write is written frame by frame. `recipe` is for all of them, or one for each; alpha
        must be the same in all, as the decoder's run takes one. With `whole_maps` the maps are computed with everything
        else, by all threads, since somebody will look at them; else what the masks do not need is left for then.
        """
        if not images:
            return []
        watch = Stopwatch()
        frames = range(len(images))
        recipes = [recipe or Recipe() for _ in frames] if isinstance(recipe, Recipe | None) else list(recipe)
        if len(recipes) != len(images):
            raise InputError(f"recipe: found {len(recipes)} for {len(images)} images, expected one for each")
        alpha = self._alpha(recipes)
        seen = self._see(images, request, recipes, decoding, watch)
        tellers = [Teller(self.pipeline, seen, frame, request.mode, decoding, cancelled) for frame in frames]
        answers = [teller.answer() for teller in tellers]
        told = [teller.told(answer) for teller, answer in zip(tellers, answers, strict=True)]
        watch.lap("text")
        groups = [(frame, group, told[frame].answer.states) for frame in frames for group in told[frame].reading.groups]
        small = self.pipeline.maps(seen, groups, alpha)
        watch.lap("decoder")
        maps: list[list[AnomalyMap]] = [[] for _ in frames]
        for (frame, *_), each in zip(groups, small, strict=True):
            maps[frame].append(self.pipeline.at_image_size(seen, frame, each, recipes[frame].roi))
        results = [
            self._result(seen, frame, told[frame], maps[frame], recipes[frame], watch, whole_maps) for frame in frames
        ]
        return [replace(result, timings_ms=watch.done()) for result in results]

    def stream(
        self,
        image: AnyImage,
        request: Request = Request(),
        recipe: Recipe | None = None,
        *,
        decoding: Decoding = Decoding(),
        cancelled: Callable[[], bool] = never,
        whole_maps: bool = False,
    ) -> Generator[Event, None, None]:
        """Segment one image as its answer is written: pieces of text, each map as soon as its group of anchors is
        complete, last of all the result. Closing the iterator ends the writing.

        Arguments and errors are those of `segment` and `segment_batch`. The result decides: an answer that the token
        limit stops, or that a recheck reads otherwise, has no map, or another one.
        """
        watch, recipe = Stopwatch(), recipe or Recipe()
        seen = self._see([image], request, [recipe], decoding, watch).on_host()
        teller = Teller(self.pipeline, seen, 0, request.mode, decoding, cancelled)
        sent, answer = "", Answer()
        maps: list[AnomalyMap] = []
        for answer in teller.write():
            piece = teller.piece(answer, sent)
            watch.lap("text")
            if piece:
                sent += piece
                yield Text(piece)
                watch.skip()
            for group in teller.complete(answer)[len(maps) :]:
                maps += self._maps(seen, [group], answer, recipe)
                maps[-1].fill(self.pipeline.hands_for(seen.frames[0]))
                event = GroupMap(len(maps) - 1, maps[-1].whole.copy())
                watch.lap("decoder")
                yield event
                watch.skip()
        if piece := teller.piece(answer, sent, last=True):
            yield Text(piece)
            watch.skip()
        told = teller.told(answer)
        watch.lap("text")
        if told.rechecked or len(told.reading.groups) != len(maps):
            maps = self._maps(seen, told.reading.groups, told.answer, recipe)
            watch.lap("decoder")
        yield self._result(seen, 0, told, maps, recipe, watch, whole_maps)

    def _asked(self, request: Request, decoding: Decoding) -> tuple[str, Known]:
        """The instruction, and the answers to try."""
        asked = request.text(self.templates, self.manifest.prompt.default_instruction)
        return asked, Known.of(request.mode, text=decoding.text) if self._speculate else Known.NOTHING

    def _alpha(self, recipes: Sequence[Recipe]) -> float:
        """The alpha of frames that are decoded together; raises InputError where they differ."""
        alphas = sorted({recipe.alpha_or(self.manifest.model.alpha) for recipe in recipes})
        if len(alphas) > 1:
            found = " and ".join(f"{alpha:g}" for alpha in alphas)
            raise InputError(f"recipe.alpha: found {found}, expected the same for all images of a batch")
        return alphas[0]

    def _see(
        self,
        images: Sequence[AnyImage],
        request: Request,
        recipes: Sequence[Recipe],
        decoding: Decoding,
        watch: Stopwatch,
    ) -> Seen:
        asked, known = self._asked(request, decoding)
        frames = [decoded(image) for image in images]
        for frame, recipe in zip(frames, recipes, strict=True):
            window(recipe.roi, (frame.shape[0], frame.shape[1]))  # refused before it costs anything
        watch.lap("decode")
        return self.pipeline.see(frames, asked, known, watch)

    def _maps(self, seen: Seen, groups: Sequence[AnchorGroup], answer: Answer, recipe: Recipe) -> list[AnomalyMap]:
        """The only frame's groups' maps at its size."""
        small = self.pipeline.maps(seen, [(0, group, answer.states) for group in groups], self._alpha([recipe]))
        return [self.pipeline.at_image_size(seen, 0, each, recipe.roi) for each in small]

    def _result(
        self,
        seen: Seen,
        frame: int,
        told: Told,
        maps: Sequence[AnomalyMap],
        recipe: Recipe,
        watch: Stopwatch,
        whole_map: bool,
    ) -> Result:
        answer, plan = told.answer, seen.plan
        image = seen.frames[frame]
        return finish(
            merged(maps, (image.shape[0], image.shape[1])),
            told.reading,
            self.prompter.decode(answer.tokens),
            path_scores(plan.known, plan.trie, seen.edge_logprob[frame], answer.min_margin),
            self.manifest.model.threshold,
            recipe,
            watch,
            self.pipeline.hands_for(image),
            whole_map,
            instruction=seen.asked,
            group_maps=tuple(each.whole for each in maps) if len(maps) > 1 else (),
            tokens=len(answer.tokens),
            proved_tokens=answer.proved,
            one_pass=answer.proved == len(answer.tokens) and (answer.finished or answer.short) and not told.rechecked,
            verified="anchors" if answer.short else "answer",
            rechecked=told.rechecked,
        )
