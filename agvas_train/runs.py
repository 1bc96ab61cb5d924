"""Training runs on disk: what a run starts from, how it goes on, and the clean checkpoint it ends with."""

from __future__ import annotations

import fcntl
import shutil
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import IO, Any, Literal

import torch
from accelerate.utils import gather_object
from torch import Tensor

from agvas_runtime import console
from agvas_runtime.bench.machine import git_commit
from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.files import make_folder, write_whole
from agvas_runtime.templates import default_templates, templates_text
from agvas_train.assemble import tools
from agvas_train.checkpoint import (
    Checkpoint,
    CheckpointConfig,
    load_checkpoint,
    read_info,
    write_folder,
    write_info_files,
)
from agvas_train.config import SYNTHETIC, TrainConfig
from agvas_train.data.loading import Sets, load_batches, naming_lost_loaders, small_view, text_corpus
from agvas_train.data.mixture.opening import check_alike, open_mixture
from agvas_train.loop import OPTIMIZER, STATE, Report, Resumed, latest_checkpoint, saying_newest, train
from agvas_train.lora import (
    ADAPTER,
    AdapterConfig,
    adapter_config,
    add_adapters,
    load_trained,
    read_adapter_config,
    write_adapter_files,
)
from agvas_train.model import AGVAS, FROM_SCRATCH, PRESETS, ModelConfig, build_agvas
from agvas_train.model.build import build_spam
from agvas_train.model.cost import PARTS
from agvas_train.parallel import start_parallel
from agvas_train.resume import DEEPSPEED, FINAL, TRAIN_CONFIG, recorded
from agvas_train.tokenizer import prompt_spec, template_sentences, train_tokenizer
from agvas_train.weights.load import named_tensors
from agvas_train.weights.reader import LazyTensors, in_memory
from agvas_train.weights.store import read_weights, weights_sha256, write_weights

LOCK = ".lock"
NEVER_USED = ("vision_tower.post_layernorm", "vision_tower.vision_model.post_layernorm", ".mask_token")
CLIPS = ("pixel_encoder.post_layernorm", "pixel_encoder.vision_model.post_layernorm")
"""Parameters that no forward pass of ours reaches; several processes would wait for their gradients."""


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
        config: the run's options; when resuming, equal to the recorded ones but for what `resume.py` says.
        resume: go on from the run's newest checkpoint.

    Raises:
        InputError: the folder, the base or the options do not allow it; nothing was written.
        EngineError: a file cannot be written, a loading process was killed; the checkpoints written before stay whole.
    """
    resumed = None
    if resume:
        config, resumed = recorded(run, config)
    elif run.exists() and (not run.is_dir() or any(not path.name.startswith(".") for path in run.iterdir())):
        raise InputError(f"{run}: exists already; use --resume to go on with a run, or another --out")
    parallel = start_parallel(config)
    main = parallel.accelerator.is_main_process
    sets = open_mixture(config.data, config.mixture, console.note if main else _quiet) if config.data else None
    counts = {name: len(each) for name, each in sets.items()} if sets is not None else {}
    check_alike(gather_object([counts]))
    torch.manual_seed(config.seed)
    start = _start(config, resumed, sets)
    small_view(start.checkpoint.config.model, config)  # refused before anything is written
    parallel.accelerator.wait_for_everyone()  # every process has looked at the folder before one makes it
    if config.data is not None:
        data = config.data.model_copy(update={"samples": counts})
        config = config.model_copy(update={"data": data})
    if config.base:
        config = config.model_copy(update={"base_sha256": weights_sha256(Path(config.base))})
    lock = _lock(run) if main else None
    if main and not resume:
        write_whole(run / TRAIN_CONFIG, (config.model_dump_json(indent=1) + "\n").encode())
        if config.deepspeed:
            write_whole(run / DEEPSPEED, Path(config.deepspeed).read_bytes())
    checkpoint, origin = start.checkpoint, start.origin

    def write_files(values: dict[str, Tensor], step: int, folder: Path) -> None:
        info = replace(checkpoint.info, provenance=_provenance(config, step, origin, start.adapter))
        if start.adapter:
            write_adapter_files(info, values, start.adapter, folder)
        else:
            write_weights(in_memory({**named_tensors(checkpoint.model), **values}), folder)
            write_info_files(info, folder)

    with saying_newest(run), naming_lost_loaders(config.workers):
        train(
            checkpoint.model,
            load_batches(checkpoint, sets, config, resumed.step if resumed else 0, parallel),
            config,
            prompter=checkpoint.prompter,
            run=run,
            write_files=write_files,
            report=report,
            resumed=resumed,
            parallel=parallel,
        )
    final, newest = run / FINAL, latest_checkpoint(run)
    if main and newest:
        with saying_newest(run, f", of which --resume writes {FINAL}"):
            write_folder(final, lambda folder: _copy_model(newest.folder, folder))
    parallel.accelerator.wait_for_everyone()
    parallel.accelerator.end_training()
    if lock:
        lock.close()
    return final


def _copy_model(checkpoint: Path, folder: Path) -> None:
    """What a step's checkpoint holds of the model, without what only resuming needs.

    Raises:
        EngineError: a file cannot be written; an OSError of copying names the file that is read.
    """
    for path in checkpoint.iterdir():
        if path.is_file() and path.name not in (OPTIMIZER, STATE):
            try:
                shutil.copyfile(path, folder / path.name)
            except OSError as error:
                raise EngineError(f"{folder / path.name}: cannot write: {error.strerror}") from None


def _lock(run: Path) -> IO[str]:
    """Keep other processes out of a folder for as long as the file is open; raises InputError where one is in it."""
    file = (make_folder(run) / LOCK).open("w")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock, not inherited by the data's processes
    except (BlockingIOError, PermissionError):
        raise InputError(f"{run}: another process trains in this folder now") from None
    return file


def _quiet(_: str) -> None:
    """Another process says it."""


def _start(config: TrainConfig, resumed: Resumed | None, sets: Sets | None) -> Start:
    """The model to train; raises InputError when the base is not there, or is not the one the run began with."""
    if config.base is None:
        check_from_scratch(config)
        checkpoint = load_checkpoint(resumed.folder, dtype=torch.float32) if resumed else fresh_checkpoint(config, sets)
        return Start(_all_trained(checkpoint), None, checkpoint.provenance.get("base"))
    base = Path(config.base)
    check_preset(config, base)
    if config.base_sha256 not in (None, weights_sha256(base)):
        raise InputError(f"{base}: its weights are not those that the run began with")
    if config.lora is None:
        checkpoint = load_checkpoint(base, dtype=torch.float32)
        origin = checkpoint.provenance
        if config.fresh_spam:
            _refresh_spam(checkpoint)
        if resumed:
            checkpoint.model = load_checkpoint(resumed.folder, dtype=torch.float32).model
        return Start(_all_trained(checkpoint, config.frozen), None, origin)
    dtype: Literal["float32", "bfloat16"] = "bfloat16" if config.precision == "bf16" else "float32"
    checkpoint = load_checkpoint(base, dtype=getattr(torch, dtype))
    if resumed:
        adapter = read_adapter_config(resumed.folder)
        adapter = adapter.model_copy(update={"base": str(base.resolve())})  # it may have moved
    else:
        adapter = adapter_config(
            base, config.lora, alpha=config.lora_alpha, dropout=config.lora_dropout, base_dtype=dtype
        )
    add_adapters(checkpoint.model, adapter)
    if resumed:
        load_trained(checkpoint.model, resumed.folder / ADAPTER)
    else:
        _in_full_precision(checkpoint.model, read_weights(base))
    return Start(checkpoint, adapter, checkpoint.provenance)


@torch.no_grad()
def _in_full_precision(model: AGVAS, tensors: LazyTensors) -> None:
    """Give trained parameters the values that the base's files hold: loading may have rounded them."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and name in tensors:
            parameter.copy_(tensors[name].read())


def check_preset(config: TrainConfig, base: Path) -> None:
    """Raise InputError when a base is not of the preset that the options name."""
    found = read_info(base).config.model.preset
    if config.preset not in (None, found):
        raise InputError(f"{base}: is a checkpoint of preset {found}, the options name preset {config.preset}")


def check_from_scratch(config: TrainConfig) -> str:
    """The preset to train without a base; raises InputError where the options or the preset need one."""
    if config.lora is not None:
        raise InputError("--lora needs a base checkpoint: name it with --from")
    if config.fresh_spam or config.frozen:
        raise InputError("fresh_spam and frozen are about a base checkpoint: name it with --from")
    if config.preset is None:
        raise InputError("--preset or --from is missing: name what to train")
    check_known(config.preset)
    if config.preset not in FROM_SCRATCH:
        raise InputError(
            f"--preset {config.preset} starts from released backbones; make a base of it with "
            "agvas-train init and name that with --from"
        )
    return config.preset


def check_known(preset: str) -> None:
    """Raise InputError where there is no such preset."""
    if preset not in PRESETS:
        raise InputError(f"--preset {preset}: expected one of {', '.join(PRESETS)}")


def with_fresh_spam(model: ModelConfig) -> ModelConfig:
    """A model's configuration with SPAM as its preset has it today."""
    preset = PRESETS[model.preset](int(model.language["vocab_size"]))
    return model.model_copy(update={"spam_places": preset.spam_places})


def _refresh_spam(checkpoint: Checkpoint) -> None:
    """Give a checkpoint a fresh SPAM; by torch's current random state."""
    model = with_fresh_spam(checkpoint.config.model)
    checkpoint.config = checkpoint.config.model_copy(update={"model": model})
    checkpoint.model.spam = build_spam(model)


def train_all(model: AGVAS, config: ModelConfig, frozen: tuple[str, ...] = ()) -> None:
    """Make every parameter trainable that a forward pass reaches and that is of no frozen part."""
    unused = (*NEVER_USED, *CLIPS) if config.pixel_encoder == "clip" else NEVER_USED
    still = tuple(start for part in frozen for start in PARTS[part])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(part in name for part in unused) and not name.startswith(still))


def _all_trained(checkpoint: Checkpoint, frozen: tuple[str, ...] = ()) -> Checkpoint:
    """What `train_all` does; the weights are float32 then."""
    train_all(checkpoint.model, checkpoint.config.model, frozen)
    checkpoint.config = checkpoint.config.model_copy(update={"dtype": "float32"})
    return checkpoint


def fresh_checkpoint(config: TrainConfig, sets: Sets | None = None) -> Checkpoint:
    """A model from scratch with a tokenizer of its own, by torch's current random state.

    Args:
        sets: the data sets that the run draws from, whose texts the tokenizer learns; None: the synthetic captions.

    Raises:
        InputError: the preset is unknown, or is one that starts from released backbones.
    """
    preset = check_from_scratch(config)
    templates = default_templates()
    corpus = template_sentences(templates) * 4 + text_corpus(config, sets, templates)
    tokenizer_json = train_tokenizer(corpus, vocabulary_size=config.vocabulary_size)
    model_config = PRESETS[preset](config.vocabulary_size)
    return Checkpoint(
        model=build_agvas(model_config),
        config=CheckpointConfig(model=model_config, prompt=prompt_spec(templates)),
        tokenizer_json=tokenizer_json,
        templates_json=templates_text(),
    )


@cache
def _commit() -> str | None:
    """Of this package's own files; None where they are in no repository."""
    return git_commit(Path(__file__).parent)


def _provenance(
    config: TrainConfig, step: int, origin: dict[str, Any] | None, adapter: AdapterConfig | None
) -> dict[str, Any]:
    return {
        **tools(),
        "commit": _commit(),
        # without the paths of one machine
        "train": config.model_dump(mode="json", exclude={"base": True, "deepspeed": True, "data": {"root"}}),
        "data": ", ".join(config.data.samples or ()) if config.data else SYNTHETIC,
        "step": step,
        "lora_rank": adapter.rank if adapter else None,
        "base": origin or None,
        "random_weights": bool((origin or {}).get("random_weights", False)),
    }
