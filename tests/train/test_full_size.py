"""The 0.5b preset at its full width, with random weights: optimisation steps run, and the loss of a fixed batch falls.

In CI its images and its vocabulary are small; `make test-full` runs it with all of both.
"""

from itertools import repeat
from pathlib import Path

import pytest
import torch

from agvas_train.assemble import STAND_IN_VOCABULARY, random_base
from agvas_train.checkpoint import Checkpoint
from agvas_train.config import TrainConfig
from agvas_train.data.batch import Example, collate
from agvas_train.data.conversation import Task
from agvas_train.data.stream import TurnStream
from agvas_train.data.synth import SynthConfig
from agvas_train.data.synth_turns import SynthTurns
from agvas_train.loop import train
from agvas_train.lora import AdapterConfig, add_adapters, write_adapter_files
from agvas_train.model import PRESETS, ModelConfig
from agvas_train.parallel import start_parallel
from agvas_train.weights.load import materialise

CONFIG = TrainConfig(
    preset="0.5b",
    lora=16,
    steps=20,
    batch_size=2,
    precision="bf16",
    learning_rate=3e-4,
    warmup_steps=2,
    save_every=20,
)


def shortened(config: ModelConfig, semantic: int, pixel: int) -> ModelConfig:
    """The same model on smaller images, with the tokens that its stand-in tokenizer has: the same widths and depths."""
    return config.model_copy(
        update={
            "language": {**config.language, "vocab_size": STAND_IN_VOCABULARY},
            "semantic": {**config.semantic, "image_size": semantic},
            "pixel": {**config.pixel, "image_size": pixel},
            "semantic_view": config.semantic_view.model_copy(update={"size": semantic}),
            "pixel_view": config.pixel_view.model_copy(update={"size": pixel}),
        }
    )


def example(checkpoint: Checkpoint, task: Task, index: int) -> Example:
    """A defective sample with a turn of one task about it."""
    stream = TurnStream(
        SynthTurns(checkpoint.templates, {task: 1.0}, SynthConfig(normal_share=0.0), seed=1),
        config=checkpoint.config.model,
        prompter=checkpoint.prompter,
        batch_size=1,
        micro_batch=1,
        start=0,
        stop=1,
    )
    return stream.example(index)


def losses_on_a_fixed_batch(model_config: ModelConfig, run: Path, config: TrainConfig = CONFIG) -> list[float]:
    """Train on the same samples, a defect and an object, in every step; returns the losses."""
    info, tensors = random_base(model_config, 0, "bfloat16")
    model = materialise(model_config, tensors, name="random weights", dtype=torch.bfloat16)
    checkpoint = Checkpoint(**vars(info), model=model)
    adapter = AdapterConfig(rank=16, base="random", base_sha256="")
    add_adapters(model, adapter)
    tasks = (Task.DIRECT, Task.GENERAL)
    batch = collate([example(checkpoint, task, number) for number, task in enumerate(tasks)], model_config)
    losses: list[float] = []
    train(
        model,
        repeat(batch),
        config,
        prompter=checkpoint.prompter,
        run=run,
        write_files=lambda values, _, folder: write_adapter_files(checkpoint.info, values, adapter, folder),
        report=lambda _, figures: losses.append(figures["loss"]),
        resumed=None,
        parallel=start_parallel(config),
    )
    return losses


def check(losses: list[float]) -> None:
    assert len(losses) == 20
    assert sum(losses[-3:]) < 0.6 * sum(losses[:3]), losses
    assert losses[-1] == min(losses[-1], *losses[:10])


def test_the_loss_of_the_half_billion_preset_falls_over_20_steps(tmp_path: Path) -> None:
    """Nine patches for the semantic encoder, one of SAM's windows for the pixel encoder."""
    check(losses_on_a_fixed_batch(shortened(PRESETS["0.5b"](), 42, 224), tmp_path))


@pytest.mark.slow
def test_the_loss_falls_at_full_image_size_too(tmp_path: Path) -> None:
    saving = CONFIG.model_copy(update={"gradient_checkpointing": True})
    check(losses_on_a_fixed_batch(PRESETS["0.5b"](), tmp_path, saving))
