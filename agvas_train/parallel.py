"""One to many processes through accelerate, with or without DeepSpeed: what differs between them stands here."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from torch import nn
from transformers.integrations import unset_hf_deepspeed_config

from agvas_runtime.errors import InputError
from agvas_train.config import TrainConfig

ENGINE_STATE, UNFINISHED = "deepspeed", ".step-engine"


@dataclass(frozen=True)
class Parallel:
    """The processes of one run.

    Attributes:
        micro_batch: samples that a process computes at a time.
        accumulated: micro-batches of a process in one optimiser step.
        deepspeed: whether DeepSpeed's engine owns optimiser and gradients.
    """

    accelerator: Accelerator
    micro_batch: int
    accumulated: int
    deepspeed: bool

    def clip(self, module: nn.Module, norm: float) -> float:
        """Clip the gradients of a module to a total norm (DeepSpeed does that itself); returns the norm before it."""
        if self.deepspeed:
            return float(module.get_global_grad_norm() or 0.0)  # type: ignore[operator]
        trained = [p for p in module.parameters() if p.requires_grad]
        return float(self.accelerator.clip_grad_norm_(trained, norm))

    @contextmanager
    def gathered(self, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
        """Parameters that ZeRO-3 has spread over the processes are whole inside."""
        if not self.deepspeed:
            yield
            return
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(parameters)):
            yield

    def save_state(self, module: Any, folder: Path) -> None:
        """DeepSpeed's optimiser state, each process its part, into a hidden place in `folder`."""
        if self.accelerator.is_main_process:
            shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        module.save_checkpoint(str(folder / UNFINISHED), tag=ENGINE_STATE, exclude_frozen_parameters=True)
        self.accelerator.wait_for_everyone()

    def move_state(self, folder: Path, target: Path) -> None:
        """Put what `save_state` wrote into a checkpoint folder."""
        os.replace(folder / UNFINISHED / ENGINE_STATE, target / ENGINE_STATE)
        shutil.rmtree(folder / UNFINISHED)

    def load_state(self, module: Any, folder: Path) -> None:
        """Load what a checkpoint folder holds of DeepSpeed's state; the processes must be as many as then."""
        if not (folder / ENGINE_STATE).is_dir():
            raise InputError(f"{folder}: holds no {ENGINE_STATE} state; it was written without --deepspeed")
        module.load_checkpoint(str(folder), tag=ENGINE_STATE, load_module_strict=False)


def start_parallel(config: TrainConfig) -> Parallel:
    """Join the run's processes, as many as the launcher (torchrun, accelerate) has started.

    Raises:
        InputError: the batch does not divide among them, or the DeepSpeed configuration cannot be read.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    try:
        micro, accumulated = config.micro_batches(processes)
    except ValueError as error:
        raise InputError(str(error)) from None
    options: dict[str, Any] = {"gradient_accumulation_steps": accumulated}
    on_cpu = not torch.cuda.is_available()
    if config.deepspeed:
        options["deepspeed_plugin"] = _plugin(config, Path(config.deepspeed), micro, accumulated)
        if on_cpu:
            PartialState(cpu=True)  # joins over gloo; by itself accelerate would start every process alone
    AcceleratorState._reset_state()  # else a second run in this process could have no other precision than the first
    accelerator = Accelerator(
        mixed_precision="bf16" if config.precision == "bf16" else "no",
        cpu=on_cpu and not config.deepspeed,  # forced to the CPU, accelerate drops DeepSpeed
        **options,
    )
    if config.deepspeed:
        unset_hf_deepspeed_config()  # the model is built and loaded whole, then spread by `prepare`
    return Parallel(accelerator, micro, accumulated, deepspeed=config.deepspeed is not None)


def read_deepspeed(file: Path) -> dict[str, Any]:
    """A DeepSpeed configuration; batch sizes, precision and clipping come from the recipe and must not stand in it."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read as a DeepSpeed configuration: {error}") from None
    if not isinstance(content, dict) or "zero_optimization" not in content:
        raise InputError(f"{file}: found no zero_optimization, expected a DeepSpeed configuration")
    ours = {"train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping"}
    if clash := sorted(ours & content.keys()):
        raise InputError(f"{file}: {clash[0]} comes from the recipe; take it out")
    return content


def _plugin(config: TrainConfig, file: Path, micro: int, accumulated: int) -> Any:
    content = read_deepspeed(file)
    try:
        import deepspeed  # noqa: F401
    except ImportError:
        raise InputError("--deepspeed: deepspeed is not installed: pip install 'agvas[deepspeed]'") from None
    from accelerate import DeepSpeedPlugin

    content = {
        **content,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": accumulated,
        "gradient_clipping": config.clip_norm,
        "bf16": {"enabled": config.precision == "bf16"},
        "zero_allow_untested_optimizer": True,
    }
    return DeepSpeedPlugin(hf_ds_config=content, zero3_init_flag=False)
