"""Models that answer what one wants, cheaply: one checkpoint and its bundle, of which only the output head changes.

For proofs of the single pass: the answers leave the template trie at a depth of one's choice.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from agvas_export.agreement import Reference, SinglePass
from agvas_export.graphs import Graph, default_plan, graphs_of
from agvas_export.onnx_graph import WeightFiles, onnx_graph
from agvas_runtime.bundle import Bundle
from agvas_runtime.engines import Engine
from agvas_runtime.engines.ort import OrtEngine
from agvas_runtime.segmenter import GRAPHS
from agvas_train.checkpoint import Checkpoint
from agvas_train.plant import plant

HEADED = ("llm", "decode")
"""The graphs with an output head."""


class Plantable:
    """A checkpoint in float32 and its float32 bundle, to be planted again and again.

    The graphs with the output head are written anew each time, with the same nodes and other weights; the others stay
    as the bundle has them. A tied head is untied first: only what the model writes changes, not what it reads.

    Args:
        checkpoint: is changed.
        bundle: exported from it.
        work: a folder for graphs.
        translate: `onnx_graph`, or one that remembers.
    """

    def __init__(
        self, checkpoint: Checkpoint, bundle: Bundle, work: Path, translate: Callable[[Graph], ir.Model] = onnx_graph
    ) -> None:
        model, config = checkpoint.model, checkpoint.config
        self.checkpoint, self.bundle, self._work = checkpoint, bundle, work
        self._graphs = {graph.name: translate(graph) for graph in graphs_of(checkpoint) if graph.name in HEADED}
        if config.model.language["tie_word_embeddings"]:
            model.llava.lm_head.weight = nn.Parameter(model.llava.lm_head.weight.detach().clone())
            untied = {**config.model.language, "tie_word_embeddings": False}
            own = config.model.model_copy(update={"language": untied})
            checkpoint.config = config.model_copy(update={"model": own})
        self._head = model.llava.lm_head.weight.detach().clone()
        self._places = {name: _find_head(graph, self._head) for name, graph in self._graphs.items()}
        self._kept = {name: OrtEngine(bundle.graph_path(name)) for name in GRAPHS}

    def own(self) -> tuple[SinglePass, Reference]:
        """Both sides with the checkpoint's own head."""
        self._reset()
        return SinglePass(self.bundle, dict(self._kept)), self._reference()

    def plant(self, answer: str) -> tuple[SinglePass, Reference]:
        """Both sides with a head that writes `answer` to the default instruction; earlier ones are not to be used.

        Raises EngineError where greedy decoding does not write it.
        """
        self._reset()
        plant(self.checkpoint, answer)
        head = self.checkpoint.model.llava.lm_head.weight.detach()
        engines: dict[str, Engine] = dict(self._kept)
        files = WeightFiles(self._work)
        for name, graph in self._graphs.items():
            place, transposed = self._places[name]
            constant = np.ascontiguousarray((head.T if transposed else head).numpy())
            planted = graph.clone()
            planted.graph.initializers[place].const_value = ir.tensor(constant, name=place)
            files.write(name, planted)
            engines[name] = OrtEngine(self._work / f"{name}.onnx")
        return SinglePass(self.bundle, engines), self._reference()

    def leaving(self, depth: int, goes_on: str, nth: int = 0) -> str:
        """An answer that shares so many tokens with a known one and then goes on otherwise; with the `nth` known one.

        Raises ValueError where there is none.
        """
        trie, prompter = default_plan(self.checkpoint).trie, self.checkpoint.prompter
        found = []
        for answer in trie.answers:
            text = prompter.decode(answer.tokens[:depth]) + goes_on
            tokens = prompter.answer(text, anchors=True)
            row = answer.rows[depth - 1] if 0 < depth <= len(answer.rows) else 0
            if tokens[:depth] == answer.tokens[:depth] and (row, tokens[depth]) not in trie.children:
                found += [text] if len(answer.tokens) >= depth else []
        if not found:
            raise ValueError(f"no known answer has {depth} tokens and {goes_on!r} behind them")
        return found[nth % len(found)]

    def _reset(self) -> None:
        with torch.no_grad():
            self.checkpoint.model.llava.lm_head.weight.copy_(self._head)

    def _reference(self) -> Reference:
        return Reference(self.checkpoint, template_scores=False)


def _find_head(model: ir.Model, head: Tensor) -> tuple[str, bool]:
    """The name of the constant that is the output head [vocabulary, d], and whether it is transposed."""
    known = head.numpy()
    for name, value in model.graph.initializers.items():
        for transposed, wanted in ((False, known), (True, known.T)):
            tensor = value.const_value
            if tensor is not None and tensor.shape == wanted.shape and np.array_equal(tensor.numpy(), wanted):
                return name, transposed
    raise ValueError("the graph holds no such output head")
