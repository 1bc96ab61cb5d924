"""Each part of a frame alone: eager, eager in a CUDA graph, compiled in a CUDA graph; and what the trie costs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from frame import Frame
from single_pass import Language, Plan
from timing import Compiled, Graphed, error, timed

from agvas_export.graphs import DecoderGraph
from agvas_runtime.plan import Known
from agvas_train.checkpoint import Checkpoint

Call = Callable[[], Any]


def ways(eager: Call, fast: Call, repeats: int) -> dict[str, Any]:
    """Milliseconds of a part: `eager` is the library's form, `fast` ours; `compiled_graph` is what a frame runs."""
    found: dict[str, Any] = {}
    compiled, Compiled.on = Compiled.on, False
    for name, call, graph in (("eager", eager, False), ("eager_graph", eager, True), ("fast_eager_graph", fast, True)):
        try:
            found[name] = timed(Graphed(call, graph=graph), repeats=repeats)
        except Exception as failure:
            found[name] = {"error": f"{type(failure).__name__}: {failure}"[:300]}
    Compiled.on = compiled
    found["compiled_graph"] = timed(Graphed(fast), repeats=repeats)
    return found


def encoders_and_decoder(found: dict[str, Any], frame: Frame, repeats: int) -> None:
    """SAM, SigLIP with projector, SPAM, Token Refiner with AGMD."""
    model, encoders = frame.checkpoint.model, frame.encoders
    semantic = encoders.semantic(frame.semantic).clone()
    pixel = encoders.pixel(frame.pixels).clone()
    states = torch.randn(1, 3, semantic.shape[-1], device=semantic.device, dtype=semantic.dtype)
    decoder, present, alpha = DecoderGraph(model), frame.present[:1], frame.alpha
    calls: dict[str, tuple[Call, Call]] = {
        "pixel_encoder": (lambda: model.pixel_features(frame.pixels), lambda: encoders.pixel(frame.pixels)),
        "semantic_encoder": (
            lambda: model.semantic_features(frame.semantic),
            lambda: encoders.semantic(frame.semantic),
        ),
        "spam": (lambda: model.visual_tokens(semantic, pixel), lambda: encoders.visual(semantic, pixel)),
        "decoder": (
            lambda: decoder(states, present, pixel, alpha),
            lambda: frame.to_map(decoder, states, present, pixel, alpha),
        ),
    }
    for name, (eager, fast) in calls.items():
        found[name] = ways(eager, fast, repeats)
        try:
            found[name]["error_to_library"] = error(fast(), eager())
        except Exception as failure:
            found[name]["error_to_library"] = str(failure)[:300]


def passes(
    found: dict[str, Any], checkpoint: Checkpoint, language: Language, plan: Plan, repeats: int, attention: str
) -> None:
    """The language model's pass: with the whole trie, with the cut one, without nodes, all by one way of attention.

    That is `attention`, or "split" where one of them does not run by it. The whole trie's by the other ways too.
    """
    device, config = plan.before.device, checkpoint.config.model
    shape = (1, config.visual_tokens, config.hidden_size)
    visual = torch.randn(shape, device=device, dtype=plan.before.dtype)
    kernel = language.kernel(plan)
    plans = {
        "trie": plan,
        "none": Plan(checkpoint, None, str(device)),
        "cut": Plan(checkpoint, Known.CUT, str(device)),
    }
    for each in plans.values():
        attention, _ = language.way(visual, each, attention, kernel)
    found["attention"] = attention
    for name, each in plans.items():
        call = partial(language, visual, each, attention, kernel, each.masks_for(attention))
        found[name] = {"nodes": each.rows - 1, "tokens": each.tokens, "prompt": each.length}
        found[name]["compiled_graph"] = timed(Graphed(call), repeats=repeats)
    plain = found["none"]["compiled_graph"]["ms"]
    found["trie_over_none_ms"] = round(found["trie"]["compiled_graph"]["ms"] - plain, 4)
    found["cut_over_none_ms"] = round(found["cut"]["compiled_graph"]["ms"] - plain, 4)
    call = partial(language, visual, plan, "split", kernel)
    found["trie_split"] = {"attention": "split", **ways(call, call, repeats)}
    split = call()
    for how in ("one", "flex"):
        about: dict[str, Any] = {"attention": how}
        found[f"trie_{how}"] = about
        try:
            call = partial(language, visual, plan, how, kernel, plan.masks_for(how))
            other = call()
            about["states_error"] = error(other.states, split.states)
            about["rows_greedy_differs"] = int((other.greedy != split.greedy).sum())
            about["compiled_graph"] = timed(Graphed(call), repeats=repeats)
        except Exception as failure:
            about["error"] = f"{type(failure).__name__}: {failure}"[:500]
