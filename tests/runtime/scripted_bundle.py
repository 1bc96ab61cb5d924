"""The embedded bundle with another graph for decoding: its next token stands in a script, by the token's position.

So its answers are as long as a test needs them, hold as many groups of anchors, or end because the graph fails, while
everything about them is real: bundle, engine, process and server. What the pass proves needs no decoding and stays:
asked the long things below the model has to begin an answer of its own, which is not its end.
"""

import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from agvas_runtime.bundle import Bundle, default_bundle_path, write_manifest
from agvas_runtime.prompts import Prompter

WORD = " is"
ENDLESS = "What is on the surface?"
"""Asked this, it writes the word again and again, up to the limit of tokens."""
GROUPS = "\u00fc?" * 200
"""Asked this, it writes three anchors, the word and one more anchor, so two groups, and ends."""
FAILING = "\u00fc?" * 250
"""Asked this, it writes a few tokens, then the graph fails."""
WRITTEN = 5
"""So many tokens before it fails."""


def scripted_bundle(folder: Path) -> Path:
    """Write the bundle into a folder that is not there yet."""
    shutil.copytree(default_bundle_path(), folder)
    bundle = Bundle.open(folder)
    path = folder / bundle.manifest.graphs["decode"].file
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    (greedy,) = (node for node in graph.node if "greedy" in node.output)
    greedy.output[0] = "greedy_of_the_model"
    graph.initializer.append(numpy_helper.from_array(_script(bundle), "script"))
    graph.initializer.append(numpy_helper.from_array(np.array([1]), "one"))
    graph.node.append(helper.make_node("Reshape", ["position_ids", "one"], ["place"]))
    graph.node.append(helper.make_node("Gather", ["script", "place"], ["greedy"]))
    onnx.save(model, path)
    write_manifest(folder, bundle.manifest.model_copy(update={"name": "scripted"}))
    return folder


def _script(bundle: Bundle) -> np.ndarray:
    """The token behind the one at each position."""
    prompter = Prompter(bundle.tokenizer_json, bundle.manifest.prompt)
    nor, ano, seg = prompter.anchor_ids
    (word, _) = prompter.answer(WORD, anchors=False)

    def length(instruction: str) -> int:
        prompt = prompter.prompt(instruction)
        return len(prompt.before) + bundle.manifest.model.visual_tokens + len(prompt.after)

    script = np.full(length(FAILING) + WRITTEN, word)
    begin = length(GROUPS) + 1
    said = [nor, ano, seg, word, seg, prompter.end_id]
    script[begin : begin + len(said)] = said
    return script
