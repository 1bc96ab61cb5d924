"""Training runs on disk: what a run starts from, how it goes on, and the clean checkpoint it ends with."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from agvas_runtime.errors import InputError
from agvas_runtime.hashing import sha256_file
from agvas_runtime.templates import default_templates, templates_text
from agvas_train.checkpoint import (
    MODEL,
    Checkpoint,
    CheckpointConfig,
    load_checkpoint,
    save_checkpoint,
    write_checkpoint_files,
    write_folder,
)
from agvas_train.config import TrainConfig
from agvas_train.data.stream import SynthStream, caption_corpus
from agvas_train.loop import Report, Resumed, latest_checkpoint, train
from agvas_train.lora import (
    ADAPTER,
    AdapterConfig,
    adapter_config,
    add_adapters,
    load_trained,
    read_adapter_config,
    write_adapter_files,
)
from agvas_train.model import AGVAS, PRESETS, build_agvas
from agvas_train.tokenizer import prompt_spec, template_sentences, train_tokenizer

TRAIN_CONFIG, FINAL = "train.json", "final"


@dataclass(frozen=True)
class Start:
    """What a run begins with: a checkpoint, and adapters on it when it is a LoRA run."""

    checkpoint: Checkpoint
    adapter: AdapterConfig | None
    origin: dict[str, Any] | None
    """Provenance of the base."""


def run_training(run: Path, config: TrainConfig, *, resume: bool, report: Report) -> Path:
    """Train a preset from scratch, or a base checkpoint in full or with LoRA; returns the run's `final` folder.

    Args:
        run: the run's folder; must be new or empty unless `resume`.
        config: the run's options; when resuming, equal to the recorded ones.
        resume: go on from the run's newest checkpoint.

    Raises:
        InputError: the folder, the base or the options do not allow it; nothing was written.
    """
    accelerator = Accelerator()
    resumed = None
    if resume:
        config, resumed = _recorded(run, config)
    elif run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise InputError(f"{run}: exists already; use --resume to go on with a run, or another --out")
    torch.manual_seed(config.seed)
    start = _start(config, resumed)
    if accelerator.is_main_process and not resume:
        if config.base:
            config = config.model_copy(update={"base_sha256": sha256_file(Path(config.base) / MODEL)})
        run.mkdir(parents=True, exist_ok=True)
        (run / TRAIN_CONFIG).write_text(config.model_dump_json(indent=1) + "\n", encoding="utf-8")
    checkpoint, origin = start.checkpoint, start.origin
    if not start.adapter:
        checkpoint.model.requires_grad_(True)

    def at_step(model: AGVAS, step: int) -> Checkpoint:
        return replace(checkpoint, model=model, provenance=_provenance(config, step, origin, start.adapter))

    def write_files(model: AGVAS, step: int, folder: Path) -> None:
        if start.adapter:
            write_adapter_files(at_step(model, step), start.adapter, folder)
        else:
            write_checkpoint_files(at_step(model, step), folder)

    first = resumed.step if resumed else 0
    stream = SynthStream(
        config=checkpoint.config.model,
        prompter=checkpoint.prompter,
        templates=checkpoint.templates,
        mixture=config.mixture,
        synth=config.synth,
        seed=config.seed,
        batch_size=config.batch_size,
        start=first,
        stop=config.steps,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )
    loader = DataLoader(
        stream,
        batch_size=None,
        num_workers=config.workers,
        prefetch_factor=4 if config.workers else None,
        generator=torch.Generator(),  # else it draws from the global state, which a resumed run restores for dropout
    )
    train(
        checkpoint.model,
        loader,
        config,
        run=run,
        write_files=write_files,
        report=report,
        resumed=resumed,
        accelerator=accelerator,
    )
    final = run / FINAL
    if accelerator.is_main_process and not final.exists():
        if start.adapter:
            write_folder(final, lambda folder: write_files(checkpoint.model, config.steps, folder))
        else:
            save_checkpoint(at_step(checkpoint.model, config.steps), final)
    return final


def _recorded(run: Path, config: TrainConfig) -> tuple[TrainConfig, Resumed | None]:
    """The recorded configuration of a run and its newest checkpoint; raises InputError unless `config` is the same."""
    path = run / TRAIN_CONFIG
    if not path.is_file():
        raise InputError(f"{run}: nothing to resume, {TRAIN_CONFIG} is missing")
    found = TrainConfig.model_validate_json(path.read_text(encoding="utf-8"))
    asked = config.model_copy(update={"base_sha256": found.base_sha256})
    if found != asked:
        names = [n for n in TrainConfig.model_fields if getattr(found, n) != getattr(asked, n)]
        raise InputError(f"{run}: was started with another configuration ({', '.join(names)} differ)")
    resumed = latest_checkpoint(run)
    if resumed and resumed.step >= found.steps:
        raise InputError(f"{run}: all {found.steps} steps are done already")
    return found, resumed


def _start(config: TrainConfig, resumed: Resumed | None) -> Start:
    """The model to train; raises InputError when the base is not there, or is not the one the run began with."""
    if config.base is None:
        if config.lora is not None:
            raise InputError("--lora needs a base checkpoint: name it with --from")
        if resumed is None:
            return Start(fresh_checkpoint(config), None, None)
        checkpoint = load_checkpoint(resumed.folder)
        return Start(checkpoint, None, checkpoint.provenance.get("base"))
    base = Path(config.base)
    checkpoint = load_checkpoint(base)
    if config.base_sha256 not in (None, sha256_file(base / MODEL)):
        raise InputError(f"{base}: its weights are not those that the run began with")
    origin = checkpoint.provenance
    if config.lora is None:
        if resumed:
            checkpoint.model = load_checkpoint(resumed.folder).model
        return Start(checkpoint, None, origin)
    adapter = read_adapter_config(resumed.folder) if resumed else adapter_config(base, config.lora)
    add_adapters(checkpoint.model, adapter)
    if resumed:
        load_trained(checkpoint.model, resumed.folder / ADAPTER)
    return Start(checkpoint, adapter, origin)


def fresh_checkpoint(config: TrainConfig) -> Checkpoint:
    """A model from scratch with a tokenizer of its own, by torch's current random state.

    Raises:
        InputError: the preset is unknown, or is one that starts from released backbones.
    """
    if config.preset not in PRESETS:
        raise InputError(f"--preset {config.preset}: expected one of {', '.join(PRESETS)}")
    if config.preset != "tiny":
        raise InputError(
            f"--preset {config.preset} starts from released backbones; name a checkpoint of it with --from"
        )
    templates = default_templates()
    corpus = template_sentences(templates) * 4 + caption_corpus(config.seed, config.corpus_samples, config.synth)
    tokenizer_json = train_tokenizer(corpus, vocabulary_size=config.vocabulary_size)
    model_config = PRESETS[config.preset](config.vocabulary_size)
    return Checkpoint(
        model=build_agvas(model_config),
        config=CheckpointConfig(model=model_config, prompt=prompt_spec(templates)),
        tokenizer_json=tokenizer_json,
        templates_json=templates_text(),
    )


def _provenance(
    config: TrainConfig, step: int, origin: dict[str, Any] | None, adapter: AdapterConfig | None
) -> dict[str, Any]:
    return {
        "agvas": version("agvas"),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "peft", "tokenizers", "numpy")},
        "train": config.model_dump(mode="json", exclude={"base"}),  # a path of one machine; base_sha256 stays
        "data": "agvas-data synth, streamed",
        "step": step,
        "lora_rank": adapter.rank if adapter else None,
        "base": origin or None,
        "random_weights": False,
    }
