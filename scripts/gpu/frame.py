"""The single pass's whole frame on the device: encoders, SPAM, one pass, the walk, the anchors' states, the map.

Two recorded graphs with the host's walk between them: it reads one greedy token a row and gives three rows back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from attention import FOUND
from numpy.typing import NDArray
from single_pass import Language, Plan, Rows
from timing import ERRORS, Compiled, Graphed, error, timed
from torch import Tensor
from vision import Encoders

from agvas_export.graphs import DecoderGraph
from agvas_runtime.maps import made_steps
from agvas_runtime.modes import anchor_groups
from agvas_runtime.trie import walk
from agvas_train.checkpoint import Checkpoint
from agvas_train.reference import ReferenceSegmenter

SIZE = (1024, 1024)
"""Of the frames whose maps are made, pixels."""


@dataclass
class Said:
    """What a frame gave.

    Attributes:
        tokens: the answer's, without the end token, as far as the trie goes.
        margin: smallest top-2 gap along its rows.
        finished: whether the end token came.
        states: of the three anchors, [3, d].
        map: of the answer's first group of anchors alone, float32 [H, W] on the device; overwritten by the next frame.
            Means nothing where the answer has no anchors.
    """

    tokens: list[int]
    margin: float
    finished: bool
    states: Tensor
    map: Tensor


class Frame:
    """A model, an instruction's plan, and frames one after another.

    Args:
        streams: run the encoders side by side.
        how: the pass's attention; "split" is taken where "flex" does not run compiled, and ERRORS says why.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        encoders: Encoders,
        language: Language,
        plan: Plan,
        *,
        streams: bool = True,
        how: str = "split",
        batch: int = 1,
    ) -> None:
        config = checkpoint.config.model
        self.checkpoint, self.plan, self.batch = checkpoint, plan, batch
        self.encoders, self.language = encoders, language
        self.device = plan.before.device
        prompter = checkpoint.prompter  # read anew at every asking
        self._anchors, self._end = prompter.anchor_ids, prompter.end_id
        self.shift = 1 if config.anchor_state == "token" else 0
        self.semantic, self.pixels = (
            torch.zeros(batch, 3, side, side, device=self.device)
            for side in (config.semantic_view.size, config.pixel_view.size)
        )
        self._side = torch.cuda.Stream() if streams and self.device.type == "cuda" else None
        self.kernel = language.kernel(plan)
        visual = torch.zeros(batch, config.visual_tokens, config.hidden_size, device=self.device).to(plan.before)
        self.how, self.masks = language.way(visual, plan, how, self.kernel)
        resized = config.pixel_view.resized(*SIZE)
        canvas, cells = config.pixel_view.size, 4 * config.grid
        self._taps = tuple(
            torch.from_numpy(np.array(made_steps(cells, canvas, resized[axis], SIZE[axis]).matrix)).to(self.device)
            for axis in range(2)
        )
        dtype = plan.before.dtype
        self.present = torch.ones(batch, 3, dtype=dtype, device=self.device)
        self.alpha = torch.tensor(config.alpha, device=self.device)
        self._rows = torch.zeros(batch, 3, dtype=torch.int64, device=self.device)
        self._decoder = DecoderGraph(checkpoint.model)
        self.to_map = Compiled(DecoderGraph.forward)
        self.first = Graphed(self._see)
        self.second = Graphed(self._decode)
        pinned = {"pin_memory": self.device.type == "cuda"}
        self._greedy = torch.empty(batch, plan.rows, dtype=torch.int64, **pinned)
        self._margin = torch.empty(batch, plan.rows, **pinned)
        self._wanted = torch.zeros(batch, 3, dtype=torch.int64, **pinned)

    def _see(self) -> tuple[Rows, Tensor]:
        if self._side is None:
            semantic = self.encoders.semantic(self.semantic)
            pixel = self.encoders.pixel(self.pixels)
        else:
            here = torch.cuda.current_stream()
            self._side.wait_stream(here)
            with torch.cuda.stream(self._side):
                semantic = self.encoders.semantic(self.semantic)
            pixel = self.encoders.pixel(self.pixels)
            here.wait_stream(self._side)
        visual = self.encoders.visual(semantic, pixel)
        return self.language(visual, self.plan, self.how, self.kernel, self.masks), pixel

    def _decode(self) -> tuple[Tensor, Tensor]:
        """The anchors' states [B, 3, d], and the maps [B, H, W]."""
        rows, pixel = self.first.outputs
        states = rows.states.take_along_dim(self._rows[..., None], 1)
        small = self.to_map(self._decoder, states, self.present, pixel, self.alpha)
        return states, self._taps[0] @ small.float() @ self._taps[1].T

    def __call__(self) -> list[Said]:
        """What stands in `semantic` and `pixels`, through everything; one map each, of the first group of anchors."""
        rows, _ = self.first()
        self._greedy.copy_(rows.greedy, non_blocking=True)
        self._margin.copy_(rows.margin, non_blocking=True)
        if self.device.type == "cuda":
            torch.cuda.current_stream().synchronize()
        greedy, margins = self._greedy.numpy(), self._margin.numpy()
        trie = self.plan.plan.trie
        said = []
        self._wanted.zero_()  # a rejection has no anchors; the frame before may have had
        for number in range(self.batch):
            path = walk(trie, greedy[number])
            tokens = [int(trie.tokens[row - 1]) for row in path[1:]]
            for group in anchor_groups(tokens, self._anchors)[:1]:
                for kind, place in group:
                    self._wanted[number, kind] = path[place + self.shift]
            finished = int(greedy[number, path[-1]]) == self._end
            said.append((tokens, float(margins[number, list(path)].min()), finished))
        self._rows.copy_(self._wanted, non_blocking=True)
        states, maps = self.second()
        return [Said(*each, states[number], maps[number]) for number, each in enumerate(said)]

    def take(self, image: NDArray[np.uint8]) -> tuple[int, int]:
        """Make both views of an image the input of every place of the batch; returns its size on the canvas."""
        config = self.checkpoint.config.model
        pixels, resized = config.pixel_view.apply(image)
        self.semantic.copy_(torch.from_numpy(config.semantic_view.apply(image)).expand_as(self.semantic))
        self.pixels.copy_(torch.from_numpy(pixels).expand_as(self.pixels))
        return resized

    def answer_rows(self, answer: str) -> list[int]:
        """The rows whose states an answer's anchors have, whatever was greedy."""
        tokens = self.checkpoint.prompter.answer(answer, anchors=True)[:-1]
        found = next(each for each in self.plan.plan.trie.answers if each.tokens == tokens)
        path = (0, *found.rows)
        return [path[place + self.shift] for group in anchor_groups(tokens, self._anchors)[:1] for _, place in group]

    def told(self) -> dict[str, Any]:
        """What its figures belong to: its attention, and what runs eagerly."""
        return {"attention": self.how, "not_compiled": dict(ERRORS)}

    def times(self, found: dict[str, Any], repeats: int) -> None:
        """Milliseconds of the graphs, of the frame with its walk, and of all that with copies from and to the host."""
        found["first_graph"] = timed(self.first, repeats=repeats)
        found["second_graph"] = timed(self.second, repeats=repeats)
        found["frame"] = timed(self, repeats=repeats, wall=True)
        pinned = self.device.type == "cuda"
        views = [view.cpu().pin_memory() if pinned else view.clone() for view in (self.semantic, self.pixels)]
        out = torch.empty(self.batch, *SIZE, pin_memory=pinned)

        def with_copies() -> None:
            self.semantic.copy_(views[0], non_blocking=True)
            self.pixels.copy_(views[1], non_blocking=True)
            self()
            out.copy_(self.second.outputs[1], non_blocking=True)

        found["frame_with_copies"] = timed(with_copies, repeats=repeats, wall=True)
        found |= {"attention_kernels": dict(FOUND), **self.told()}


def compare(frame: Frame, reference: ReferenceSegmenter, images: list[NDArray[np.uint8]]) -> list[dict[str, Any]]:
    """The single pass beside decoding token by token, image by image: answers, margins, states, maps of SIZE."""
    prompter = frame.checkpoint.prompter
    asked = frame.checkpoint.config.prompt.default_instruction
    found = []
    for image in images:
        frame.take(image)
        (said, *_) = frame()
        visual = reference.encode(frame.semantic[:1], frame.pixels[:1])
        written = reference.decode(reference.prompt_embeds(asked, visual), 32)
        about = {
            "answer": prompter.decode(said.tokens),
            "equal": said.tokens == written.tokens and said.finished == written.finished,
            "min_margin": round(said.margin, 4),
            "reference_min_margin": round(written.min_margin, 4),
        }
        if not about["equal"]:
            about["reference_answer"] = prompter.decode(written.tokens)
        groups = anchor_groups(written.tokens, prompter.anchor_ids)
        if about["equal"] and groups:
            states = torch.stack([written.states[place + frame.shift] for _, place in groups[0]])
            about["states_error"] = error(said.states, states)
            small = reference.group_map(groups[0], written.states, visual).float()
            whole = frame._taps[0] @ small @ frame._taps[1].T
            about["map_error"] = error(said.map, whole)
            about["map_max_difference"] = float((said.map - whole).abs().max())
            about["mask_pixels_differing"] = float(((said.map > 0.5) != (whole > 0.5)).float().mean())
        found.append(about)
    return found
