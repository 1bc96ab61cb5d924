"""The shipped recipe's mixture over the miniatures, and batches of it as digests that other processes can write too."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from agvas_runtime.templates import default_templates
from agvas_train.checkpoint import load_checkpoint
from agvas_train.config import TrainConfig
from agvas_train.data.batch import Batch
from agvas_train.data.mixture.draw import Mixture
from agvas_train.data.mixture.opening import open_mixture
from agvas_train.data.stream import TurnStream
from agvas_train.options import make_config, read_options, recipe_path, with_data_root

BATCH = 8


def silent(_: str) -> None:
    pass


def recipe(root: Path) -> TrainConfig:
    return make_config(with_data_root(read_options(recipe_path("tiny-mixture")), str(root)))


def mixture(root: Path, limit: float = 0.01, report: Callable[[str], None] = silent) -> Mixture:
    config = recipe(root)
    assert config.data is not None
    sets = open_mixture(config.data, config.mixture, silent)
    return Mixture(sets, default_templates(), config.mixture, seed=config.seed, unreadable_limit=limit, report=report)


def stream(root: Path, checkpoint: Path, start: int, stop: int, rank: int = 0, world: int = 1) -> TurnStream:
    """Micro-batches of half a step's samples."""
    model = load_checkpoint(checkpoint)
    return TurnStream(
        mixture(root),
        config=model.config.model,
        prompter=model.prompter,
        batch_size=BATCH,
        micro_batch=BATCH // 2,
        start=start,
        stop=stop,
        rank=rank,
        world=world,
    )


def digest(batch: Batch) -> str:
    """Of every tensor of a batch."""
    found = hashlib.sha256()
    for name, value in vars(batch).items():
        for part in value.values() if isinstance(value, dict) else [value]:
            found.update(f"{name}{part.shape}".encode() + part.numpy().tobytes())
    return found.hexdigest()


def write_digests(out: Path, workers: int, root: Path, checkpoint: Path, *where: int) -> None:
    """What one process of several sees, batch by batch, with so many loading processes of its own."""
    torch.set_num_threads(1)
    loader = DataLoader(stream(root, checkpoint, *where), batch_size=None, num_workers=workers)
    out.write_text(json.dumps([digest(batch) for batch in loader]))
