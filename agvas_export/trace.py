"""What the reference computes for an image, tensor by tensor: every graph's inputs and the outputs it must give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agvas_export.graphs import Graph, default_plan
from agvas_train.checkpoint import Checkpoint

Arrays = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Trace:
    """Of one image and the default instruction.

    Attributes:
        feeds: graph to input name to array, batch 1 (the decoder: two groups of anchors, one of them [SEG] alone).
        outputs: graph to output name to array, as the reference computes them.
        anchor_rows: rows of the pass's states that stand for anchors.
    """

    feeds: dict[str, Arrays] = field(default_factory=dict)
    outputs: dict[str, Arrays] = field(default_factory=dict)
    anchor_rows: tuple[int, ...] = ()


class Tracer:
    """Traces images through a checkpoint's graphs."""

    def __init__(self, graphs: Sequence[Graph], checkpoint: Checkpoint) -> None:
        self.graphs = {graph.name: graph for graph in graphs}
        self.checkpoint = checkpoint
        self.config = checkpoint.config.model
        self.plan = default_plan(checkpoint)
        self._anchor_ids = checkpoint.prompter.anchor_ids  # which reads the tokenizer anew each time

    @torch.inference_mode()
    def trace(self, image: NDArray[np.uint8]) -> Trace:
        """RGB uint8 [H, W, 3] -> its trace. Decoding goes on with the first token that the prompt gives."""
        plan, trie, model = self.plan, self.plan.trie, self.checkpoint.model
        shift = 1 if self.config.anchor_state == "token" else 0
        rows = [
            (0, *answer.rows)[answer.tokens.index(anchor) + shift]
            for answer in trie.answers
            for anchor in self._anchor_ids
            if anchor in answer.tokens
        ]
        trace = Trace(anchor_rows=tuple(dict.fromkeys(rows)))
        semantic = torch.from_numpy(self.config.semantic_view.apply(image))
        pixels = torch.from_numpy(self.config.pixel_view.apply(image)[0])
        run: Callable[..., tuple[Tensor, ...]] = lambda name, *feeds: self._run(trace, name, feeds)  # noqa: E731
        (f_s,) = run("semantic_encoder", semantic)
        (f_p,) = run("pixel_encoder", pixels)
        (visual,) = run("spam", f_s, f_p)
        texts = (plan.before, plan.after, trie.tokens)
        before, after, nodes = (model.embed(torch.from_numpy(part))[None] for part in texts)
        constant = [self.graphs["llm"].inputs[name] for name in ("depths", "node_bias", "edge_rows", "edge_tokens")]
        greedy, _, _, states, *past = run("llm", before, visual, after, nodes, *constant)
        length = plan.prompt_length
        prompt = (part[:, :, :, :length].contiguous() for part in past)
        run("decode", model.embed(greedy[:, :1]), torch.full((1, 1), length), *prompt)
        anchors = states[:, list(trace.anchor_rows[:3])].expand(2, -1, -1).clone()
        present = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
        run("decoder", anchors, present, f_p.expand(2, -1, -1, -1).clone(), torch.tensor(self.config.alpha))
        return trace

    def _run(self, trace: Trace, name: str, feeds: Sequence[Tensor]) -> tuple[Tensor, ...]:
        graph = self.graphs[name]
        outputs = graph.reference(*feeds)
        trace.feeds[name] = {key: value.numpy() for key, value in zip(graph.inputs, feeds, strict=True)}
        trace.outputs[name] = {key: value.numpy() for key, value in zip(graph.outputs, outputs, strict=True)}
        return outputs
