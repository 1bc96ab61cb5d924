"""What a recipe would train, worked out without training: parts, batches, memory, shares of the data."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

from rich.table import Table

from agvas_runtime import console
from agvas_runtime.errors import InputError
from agvas_runtime.manifest import weights_note
from agvas_train.checkpoint import read_info
from agvas_train.config import TrainConfig
from agvas_train.data.conversation import GROUPS, draw_task
from agvas_train.data.loading import small_view
from agvas_train.data.mixture.opening import wanted_sets
from agvas_train.data.sets.registry import Group
from agvas_train.lora import AdapterConfig, add_adapters
from agvas_train.model import FROM_SCRATCH, PRESETS, ModelConfig
from agvas_train.model.cost import PARTS
from agvas_train.parallel import read_deepspeed
from agvas_train.runs import check_from_scratch, check_known, check_preset, train_all, with_fresh_spam
from agvas_train.weights.load import build_empty

DRAWS = 20_000
ADAM_BYTES = 16
"""Of a trained parameter: itself, its gradient and two moments, float32 each."""


def plan(config: TrainConfig) -> dict[str, Any]:
    """Work out a run for the number of processes that the launcher says (one without a launcher).

    Raises:
        InputError: the run could not begin with these options; a base that is not there yet may still come.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    try:
        micro, accumulated = config.micro_batches(processes)
    except ValueError as error:
        raise InputError(str(error)) from None
    model_config, found = _model_config(config)
    small_view(model_config, config)
    made = read_info(Path(config.base)).provenance if config.base and found else {}
    model_config = with_fresh_spam(model_config) if config.fresh_spam else model_config
    model = build_empty(model_config)
    if config.lora:
        add_adapters(model, AdapterConfig(rank=config.lora, alpha=config.lora_alpha, base="", base_sha256=""))
    elif config.frozen:
        train_all(model, model_config, config.frozen)
    parts: dict[str, Counter[str]] = {part: Counter() for part in PARTS}
    for name, parameter in model.named_parameters():
        part = next(part for part, beginnings in PARTS.items() if name.startswith(beginnings))
        parts[part]["trained" if parameter.requires_grad else "frozen"] += parameter.numel()
    trained = sum(count["trained"] for count in parts.values())
    frozen = sum(count["frozen"] for count in parts.values())
    stage = read_deepspeed(Path(config.deepspeed))["zero_optimization"]["stage"] if config.deepspeed else None
    frozen_bytes = frozen * (2 if config.precision == "bf16" and config.lora else 4)
    return {
        "preset": model_config.preset,
        "base": config.base,
        "base_found": found,
        "weights": weights_note(bool(made.get("random_weights", False)), made.get("plant")),
        "lora": config.lora,
        "parts": {part: {"trained": count["trained"], "frozen": count["frozen"]} for part, count in parts.items()},
        "trained": trained,
        "frozen": frozen,
        "processes": processes,
        "micro_batch": micro,
        "accumulated": accumulated,
        "batch_size": config.batch_size,
        "steps": config.steps,
        "samples": config.steps * config.batch_size,
        "tokens_per_sample": model_config.visual_tokens,
        "deepspeed_stage": stage,
        "weights_and_optimiser_bytes": frozen_bytes + ADAM_BYTES * trained,
        "shares": _shares(config),
        "data": _data(config),
    }


def _model_config(config: TrainConfig) -> tuple[ModelConfig, bool]:
    """The base's configuration, and True; the preset's, and False, where there is none or it is still to be made."""
    if config.base is None:
        return PRESETS[check_from_scratch(config)](config.vocabulary_size), False
    base = Path(config.base)
    if base.is_dir() or config.preset is None:
        check_preset(config, base)
        return read_info(base).config.model, True
    check_known(config.preset)
    sizes = (config.vocabulary_size,) if config.preset in FROM_SCRATCH else ()
    return PRESETS[config.preset](*sizes), False


def _shares(config: TrainConfig) -> dict[str, float]:
    """Measured shares of the task groups of Table A.1 in the first draws of the run."""
    counts: Counter[Group] = Counter()
    for index in range(DRAWS):
        counts[GROUPS[draw_task(config.mixture, random.Random(f"{config.seed}/{index}"))]] += 1
    return {group.value: counts[group] / DRAWS for group in dict.fromkeys(GROUPS.values())}


def _data(config: TrainConfig) -> dict[str, Any] | None:
    """The data sets that would be drawn from, without reading their lists; None for synthetic images."""
    if config.data is None:
        return None
    found = Path(config.data.root).is_dir()
    sets, missing = wanted_sets(config.data, config.mixture) if found else ([], [])
    return {"root": config.data.root, "found": found, "sets": sets, "missing": missing}


def print_plan(found: dict[str, Any]) -> None:
    """The plan for people."""
    table = Table(title=f"{found['preset']}: what is trained", title_justify="left")
    table.add_column("part")
    table.add_column("trained", justify="right")
    table.add_column("frozen", justify="right")
    for part, count in found["parts"].items():
        table.add_row(part, f"{count['trained'] / 1e6:,.2f} M", f"{count['frozen'] / 1e6:,.2f} M")
    table.add_row("total", f"{found['trained'] / 1e6:,.2f} M", f"{found['frozen'] / 1e6:,.2f} M", style="bold")
    output = console.output()
    output.print(table)
    if found["base"]:
        output.print(f"base {found['base']}: {'found' if found['base_found'] else 'not there yet'}")
    if found["weights"]:
        output.print(found["weights"], markup=False)
    output.print(
        f"a step: {found['batch_size']} samples = {found['processes']} processes x {found['accumulated']} "
        f"micro-batches x {found['micro_batch']}; {found['steps']} steps, {found['samples']:,} samples"
    )
    gib = found["weights_and_optimiser_bytes"] / 2**30
    stage = f", DeepSpeed ZeRO-{found['deepspeed_stage']}" if found["deepspeed_stage"] else ""
    output.print(f"weights, gradients and optimiser: {gib:.1f} GiB in all{stage}; activations beside it")
    shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in found["shares"].items())
    output.print(f"data: {shares}")
    if data := found["data"]:
        there = f"drawn are {', '.join(data['sets'])}" if data["found"] else "not there yet"
        output.print(f"data sets in {data['root']}: {there}", markup=False)
        if data["missing"]:
            output.print(f"left out, not there: {', '.join(data['missing'])}", markup=False)
