"""Writing weights as safetensors and reading them back: whole or in shards, some of them by reference to other files.

A folder holds `model.safetensors`; or shards, listed in `model.safetensors.index.json` with their hashes; and, where
tensors were left in the files they came from, `references.json` with those files' hashes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.hashing import remembered_sha256, sha256_file
from agvas_train.weights.reader import INDEX_SUFFIX, LazyTensor, LazyTensors, Origin, open_weights

MODEL = "model.safetensors"
INDEX, REFERENCES = MODEL + INDEX_SUFFIX, "references.json"
SHARD_BYTES = 2 * 2**30
"""Largest shard; also what writing and merging hold in memory at a time."""
KEPT_FLOAT32 = ("pe_layer.gaussian_matrix",)
"""Position frequencies stay in full precision: rounded, they would move every position."""


class ReferencedFile(BaseModel):
    """A file outside the folder that holds some of its tensors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path
    sha256: str
    size: int


class References(BaseModel):
    """What `references.json` holds: files, and for each tensor the file's key and its name in there."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    files: dict[str, ReferencedFile]
    tensors: dict[str, tuple[str, str]]


def cast(tensors: LazyTensors, dtype: torch.dtype) -> LazyTensors:
    """The tensors with every floating-point one in `dtype`, but for those that must stay float32."""
    return {name: _cast(name, tensor, dtype) for name, tensor in tensors.items()}


def _cast(name: str, tensor: LazyTensor, dtype: torch.dtype) -> LazyTensor:
    wanted = torch.float32 if name.endswith(KEPT_FLOAT32) else dtype
    if tensor.dtype == wanted or not tensor.dtype.is_floating_point:
        return tensor
    # the origin stays: a reference leads to the file's own precision, and loading casts it again
    return LazyTensor(tensor.shape, wanted, lambda: tensor.read().to(wanted), tensor.origin)


def save_tensors(tensors: dict[str, Tensor], file: Path) -> None:
    """Write one safetensors file that everybody may read; raises EngineError naming it when that is impossible."""
    try:
        save_file(tensors, file)
        file.chmod(0o644)  # safetensors writes files that only their owner can read
    except (SafetensorError, OSError) as error:
        raise EngineError(f"{file}: cannot write: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).rpartition("I/O error: ")[2]


def write_weights(
    tensors: LazyTensors,
    folder: Path,
    *,
    by_reference: bool = False,
    shard_bytes: int = SHARD_BYTES,
    step: Callable[[str], None] = lambda text: None,
) -> None:
    """Write tensors into an existing folder, one shard in memory at a time.

    Args:
        by_reference: leave tensors that came unchanged from a file where they are, and record that file's hash.
        step: called with what is being done now.

    Raises:
        EngineError: a file cannot be written.
    """
    left = {name: t.origin for name, t in tensors.items() if t.origin and by_reference}
    shards = _plan({name: t for name, t in tensors.items() if name not in left}, shard_bytes)
    single = len(shards) == 1 and not left
    places: dict[str, str] = {}
    files: dict[str, dict[str, Any]] = {}
    for number, names in enumerate(shards, start=1):
        step(f"writing file {number} of {len(shards)}")
        file = folder / (MODEL if single else f"model-{number:05d}-of-{len(shards):05d}.safetensors")
        save_tensors({name: tensors[name].read().detach().cpu().contiguous() for name in names}, file)
        if not single:
            files[file.name] = {"sha256": sha256_file(file), "size": file.stat().st_size}
            places.update(dict.fromkeys(names, file.name))
    if not single:
        total = sum(tensors[name].nbytes for name in places)
        _write_json(folder / INDEX, {"metadata": {"total_size": total, "files": files}, "weight_map": places})
    if left:
        step("hashing the files that are referred to")
        _write_json(folder / REFERENCES, _references(left).model_dump(mode="json"))


def _plan(tensors: LazyTensors, shard_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += tensor.nbytes
    return shards


def _references(left: dict[str, Origin]) -> References:
    # not resolved: the hub's cache holds links with names to blobs without
    keys = {file: str(key) for key, file in enumerate(dict.fromkeys(origin.file for origin in left.values()))}
    return References(
        files={
            key: ReferencedFile(
                path=Path(os.path.abspath(file)), sha256=remembered_sha256(file), size=file.stat().st_size
            )
            for file, key in keys.items()
        },
        tensors={name: (keys[origin.file], origin.name) for name, origin in left.items()},
    )


def _write_json(file: Path, content: dict[str, Any]) -> None:
    write_text(file, json.dumps(content, indent=1) + "\n")


def write_text(file: Path, text: str) -> None:
    """Write a small file; raises EngineError naming it, which the error of a full disk does not."""
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise EngineError(f"{file}: cannot write: {error.strerror}") from None


def has_weights(folder: Path) -> bool:
    """Whether a folder holds weights of ours, whole, in shards or by reference."""
    return any((folder / name).is_file() for name in (MODEL, INDEX))


def read_weights(folder: Path) -> LazyTensors:
    """The tensors of a folder that `write_weights` wrote; shards and referenced files must have their recorded hashes.

    Raises:
        InputError: a file is missing, unreadable, or not the one that was recorded.
    """
    tensors = open_weights(folder)
    for name, entry in _shard_entries(folder).items():
        _check(folder / name, entry["sha256"], entry["size"], f"{folder / INDEX} records")
    references = _read_references(folder)
    if references is None:
        return tensors
    held = {}
    for key, entry in references.files.items():
        if not entry.path.is_file():
            raise InputError(
                f"{entry.path}: is not there; {folder} refers to it (sha256 {entry.sha256[:12]}): "
                f"put it back, or its new place into {REFERENCES}"
            )
        _check(entry.path, entry.sha256, entry.size, f"{folder} refers to")
        held[key] = open_weights(entry.path)
    for name, (key, there) in references.tensors.items():
        if key not in held or there not in held[key]:
            raise InputError(f"{folder / REFERENCES}: {name} is said to be {there} of file {key}, where it is not")
        tensors[name] = held[key][there]
    return tensors


def weights_sha256(folder: Path) -> str:
    """One hash for all weights of a folder: the file's own, or that of the recorded hashes of all its files.

    Where referenced files lie does not count, what they hold does.
    """
    if (folder / MODEL).is_file():
        return remembered_sha256(folder / MODEL)
    references = _read_references(folder)
    record = {
        "shards": {name: entry["sha256"] for name, entry in _shard_entries(folder).items()},
        "references": {key: entry.sha256 for key, entry in references.files.items()} if references else {},
        "tensors": references.tensors if references else {},
    }
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _shard_entries(folder: Path) -> dict[str, dict[str, Any]]:
    if not (folder / INDEX).is_file():
        return {}
    try:
        content = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        entries: dict[str, dict[str, Any]] = content["metadata"]["files"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{folder / INDEX}: found no hashes of the shards, expected an index of agvas") from None
    if uncovered := sorted(set(content["weight_map"].values()) - entries.keys()):
        raise InputError(f"{folder / INDEX}: records no hash of {uncovered[0]}, expected one of every shard")
    if odd := [name for name, entry in entries.items() if {"sha256", "size"} - entry.keys()]:
        raise InputError(f"{folder / INDEX}: the entry of {odd[0]} lacks its sha256 or size")
    return entries


def _read_references(folder: Path) -> References | None:
    file = folder / REFERENCES
    if not file.is_file():
        return None
    try:
        return References.model_validate_json(file.read_text(encoding="utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{file}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _check(file: Path, sha256: str, size: int, who: str) -> None:
    found = file.stat().st_size
    if found != size:
        raise InputError(f"{file}: found {found} bytes, {who} {size}")
    digest = remembered_sha256(file)
    if digest != sha256:
        raise InputError(f"{file}: found sha256 {digest[:12]}, {who} {sha256[:12]}")
