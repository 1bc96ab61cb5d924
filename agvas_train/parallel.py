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
from torch import Tensor, nn
from transformers.integrations import unset_hf_deepspeed_config

from agvas_runtime.errors import EngineError, InputError
from agvas_train.config import TrainConfig

ENGINE_STATE, UNFINISHED = "deepspeed", ".step-engine"
OURS = {
    *("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping"),
    *("bf16", "fp16", "optimizer", "scheduler"),
}
"""What a DeepSpeed file may not say, because the recipe says it."""
INFERENCE_OP = "deepspeed_shm_comm"
"""What DeepSpeed compiles on a CPU when processes join: a sum for inference, which training never asks for."""


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

    def trained_values(self, model: nn.Module) -> dict[str, Tensor]:
        """The trained parameters by name, float32 on the CPU; every process takes part, the first one gets them.

        DeepSpeed computes with bfloat16 copies; what is written are the float32 originals.
        """
        values = {}
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            value = self._original(parameter) if self.deepspeed else parameter.detach()
            if self.accelerator.is_main_process:
                values[name] = value.float().cpu().contiguous()
        return values

    @staticmethod
    def _original(parameter: nn.Parameter) -> Tensor:
        from deepspeed.utils import safe_get_full_fp32_param

        original = safe_get_full_fp32_param(parameter)
        return parameter.detach() if original is None else original.detach()

    def save_state(self, module: Any, folder: Path) -> None:
        """DeepSpeed's optimiser state, each process its part, into a hidden place in `folder`.

        Raises:
            EngineError: it cannot be written; nothing of it is left behind.
        """
        place = folder / UNFINISHED
        if self.accelerator.is_main_process:
            shutil.rmtree(place, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        try:
            module.save_checkpoint(str(place), tag=ENGINE_STATE, exclude_frozen_parameters=True)
        except (
            OSError,
            RuntimeError,
        ) as error:  # torch words a full disk as a RuntimeError
            shutil.rmtree(place, ignore_errors=True)
            reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())[:120]
            raise EngineError(f"{place}: cannot write DeepSpeed's state (disk full?): {reason}") from None
        self.accelerator.wait_for_everyone()

    def move_state(self, folder: Path, target: Path) -> None:
        """Put what `save_state` wrote into a checkpoint folder."""
        os.replace(folder / UNFINISHED / ENGINE_STATE, target / ENGINE_STATE)
        shutil.rmtree(folder / UNFINISHED)

    def load_state(self, module: Any, folder: Path) -> None:
        """Load what a checkpoint folder holds of DeepSpeed's state; raises InputError unless there is a part for each.

        DeepSpeed unpickles its own state: only runs of one's own are resumed.
        """
        parts = len(list((folder / ENGINE_STATE).glob("*optim_states.pt")))
        if parts != self.accelerator.num_processes:
            written = f"was written by {parts} processes" if parts else f"holds no {ENGINE_STATE} state"
            raise InputError(f"{folder}: {written}, resumed with {self.accelerator.num_processes} and DeepSpeed")
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
            _leave_uncompiled(INFERENCE_OP)
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
    if clash := sorted(OURS & content.keys()):
        raise InputError(f"{file}: {clash[0]} comes from the recipe; take it out")
    zero = content["zero_optimization"]
    if not isinstance(zero, dict) or zero.get("stage") not in (1, 2, 3):
        raise InputError(f"{file}: zero_optimization has no stage, expected 1, 2 or 3")
    if "offload_optimizer" in zero:
        raise InputError(f"{file}: offload_optimizer needs an optimiser of DeepSpeed's own; take it out")
    return content


def _leave_uncompiled(operator: str) -> None:
    """Spares a minute of compiling, and waiting for ever where a build was killed: its lock stays for later runs."""
    from deepspeed import ops

    ops.__compatible_ops__[operator] = False


def _plugin(config: TrainConfig, file: Path, micro: int, accumulated: int) -> Any:
    content = read_deepspeed(file)
    try:
        import deepspeed  # noqa: F401
    except ImportError:
        raise InputError("--deepspeed: deepspeed is not installed: pip install 'agvas[deepspeed]'") from None
    if "LOCAL_RANK" not in os.environ:
        raise InputError("--deepspeed: start it with a launcher: torchrun --nproc-per-node N -m agvas_train ...")
    from accelerate import DeepSpeedPlugin

    content = {
        **content,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": accumulated,
        "gradient_clipping": config.clip_norm,
        "bf16": {"enabled": config.precision == "bf16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_allow_untested_optimizer": True,
    }
    return DeepSpeedPlugin(hf_ds_config=content, zero3_init_flag=False)
