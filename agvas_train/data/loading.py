"""A run's micro-batches: where its samples come from, and the processes that make them."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch.utils.data import DataLoader

from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.templates import Templates
from agvas_train.checkpoint import Checkpoint
from agvas_train.config import TrainConfig
from agvas_train.data.batch import Batch
from agvas_train.data.mixture.draw import Mixture, turn_corpus
from agvas_train.data.sets.adapter import Adapter
from agvas_train.data.stream import TurnStream
from agvas_train.data.synth_turns import SynthTurns, caption_corpus
from agvas_train.model.config import ModelConfig
from agvas_train.model.conv_encoder import MULTIPLE as CONV_MULTIPLE
from agvas_train.parallel import Parallel

Sets = Mapping[str, Adapter]


def _mixture(config: TrainConfig, sets: Sets, templates: Templates) -> Mixture:
    limit = config.data.unreadable_limit if config.data else 0
    return Mixture(sets, templates, config.mixture, seed=config.seed, unreadable_limit=limit)


def text_corpus(config: TrainConfig, sets: Sets | None, templates: Templates) -> list[str]:
    """The texts of the run's first samples, for training a tokenizer."""
    if sets is None:
        return caption_corpus(config.seed, config.corpus_samples, config.synth)
    return turn_corpus(_mixture(config, sets, templates), config.corpus_samples)


def small_view(model: ModelConfig, config: TrainConfig) -> tuple[ModelConfig, int] | None:
    """The model's configuration with the run's smaller pixel view, and how many steps see it.

    Raises:
        InputError: the model's pixel encoder does not take that side.
    """
    side, kind = config.small_view, model.pixel_encoder
    if side is None:
        return None
    if kind != "conv":
        raise InputError(f"small_view: is {side}, expected none: a pixel encoder of kind {kind} takes one side only")
    if side % CONV_MULTIPLE or side > model.pixel_view.size:
        raise InputError(f"small_view: is {side}, expected a multiple of {CONV_MULTIPLE} up to {model.pixel_view.size}")
    view = model.pixel_view.model_copy(update={"size": side})
    small = model.model_copy(update={"pixel": {**model.pixel, "image_size": side}, "pixel_view": view})
    return small, round(config.small_view_share * config.steps)


def load_batches(
    checkpoint: Checkpoint, sets: Sets | None, config: TrainConfig, first: int, parallel: Parallel
) -> Iterator[Batch]:
    """The micro-batches of this process from step `first` on, of data sets or, without any, of synthetic images.

    Raises:
        InputError: the data cannot be read.
    """
    templates = checkpoint.templates
    stream = TurnStream(
        SynthTurns(
            templates,
            config.mixture,
            config.synth,
            config.seed,
            config.empty_maps,
            config.usual_words,
            config.orientations,
        )
        if sets is None
        else _mixture(config, sets, templates),
        config=checkpoint.config.model,
        prompter=checkpoint.prompter,
        batch_size=config.batch_size,
        micro_batch=parallel.micro_batch,
        start=first,
        stop=config.steps,
        rank=parallel.accelerator.process_index,
        world=parallel.accelerator.num_processes,
        overfit=config.overfit,
        small=small_view(checkpoint.config.model, config),
    )
    for batch in start_loading(stream, config.workers, pin=parallel.accelerator.device.type == "cuda"):
        if isinstance(batch, InputError):
            raise batch
        yield batch


@contextmanager
def naming_lost_loaders(workers: int) -> Iterator[None]:
    """Around all that is done with batches: PyTorch tells of a killed loading process at any moment, by a signal.

    Args:
        workers: how many there are.

    Raises:
        EngineError: one of them was killed.
    """
    try:
        yield
    except (RuntimeError, EOFError, ConnectionResetError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        if workers and not isinstance(error, RuntimeError) and not reason.startswith("Caught"):
            reason = "DataLoader worker ended in the midst of a batch"  # its pipe ended before PyTorch's signal came
        elif not reason.startswith("DataLoader worker"):
            raise
        raise EngineError(f"{reason} (out of memory?): found {workers} --workers, expected fewer") from error


def start_loading(stream: TurnStream, workers: int, *, pin: bool = False) -> Iterator[Batch | InputError]:
    """What so many loading processes make of a stream, or this process where there are none; `pin`: for a GPU.

    On Linux they are forked, and share the lists that were read before; elsewhere each reads its own.
    """
    forked = workers > 0 and sys.platform == "linux"
    loader: DataLoader[Batch | InputError] = DataLoader(
        stream,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        multiprocessing_context="fork" if forked else None,  # Python 3.14's default is another
        pin_memory=pin,
        generator=torch.Generator(),  # else it draws from the global state, which belongs to dropout
    )
    if not forked:
        return iter(loader)
    gc.collect()
    gc.freeze()  # else a collection in a loading process would write to all objects, and so copy what is shared
    try:
        return iter(loader)
    finally:
        gc.unfreeze()
