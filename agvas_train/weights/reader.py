"""Weight files and folders as lazy tensors: nothing is read before it is asked for, code in a file is refused.

Formats: safetensors (one file, or shards with an index), PyTorch files (`weights_only`, memory-mapped). What the
tensors mean is not known here.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from agvas_runtime.errors import InputError

INDEX_SUFFIX = ".index.json"
SINGLE_NAMES = ("model.safetensors", "pytorch_model.bin")
"""What a folder of the hub may hold, in order of preference; each may be sharded, with an index beside the shards."""
PICKLES = (".pth", ".pt", ".bin")

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Names of dtypes in safetensors files."""


@dataclass(frozen=True)
class Origin:
    """Where a tensor lies: the file, and its name in it."""

    file: Path
    name: str


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is read when it is needed.

    Attributes:
        read: gives the tensor; every call may read it anew.
        origin: the file it lies in unchanged; None when it is computed.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]
    origin: Origin | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


LazyTensors = dict[str, LazyTensor]


def in_memory(tensors: Mapping[str, Tensor]) -> LazyTensors:
    """Lazy tensors that are there already."""
    return {
        name: LazyTensor(tuple(tensor.shape), tensor.dtype, lambda tensor=tensor: tensor)  # type: ignore[misc]
        for name, tensor in tensors.items()
    }


def open_weights(path: Path) -> LazyTensors:
    """The tensors of a weight file, or of a folder in the hub's layout, by their names there.

    Raises:
        InputError: no weights there, a shard is missing, or a file cannot be read.
    """
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise InputError(f"{path}: no such weight file")
    if path.suffix == ".safetensors":
        return _open_safetensors(path)
    if path.suffix in PICKLES:
        return _open_pickle(path)
    raise InputError(f"{path}: found a {path.suffix or 'nameless'} file, expected .safetensors, .pth, .pt or .bin")


def _open_folder(folder: Path) -> LazyTensors:
    for name in SINGLE_NAMES:
        if (folder / name).is_file():
            return open_weights(folder / name)
        if (folder / (name + INDEX_SUFFIX)).is_file():
            return _open_shards(folder / (name + INDEX_SUFFIX))
    raise InputError(f"{folder}: no weights in it, expected {' or '.join(SINGLE_NAMES)}, whole or in shards")


def _open_shards(index: Path) -> LazyTensors:
    try:
        places: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(places.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{index}: not a readable index of shards, expected a weight_map") from None
    tensors: LazyTensors = {}
    for shard in shards:
        file = index.parent / shard
        if Path(shard).name != shard:
            raise InputError(f"{index}: names the shard {shard}, expected a file beside the index")
        if not file.is_file():
            raise InputError(
                f"{file}: shard {shards.index(shard) + 1} of {len(shards)} is missing; {index.name} needs it"
            )
        held = open_weights(file)
        for name in (name for name, place in places.items() if place == shard):
            if name not in held:
                raise InputError(f"{file}: tensor {name} is missing, which {index.name} puts there")
            tensors[name] = held[name]
    return {name: tensors[name] for name in places}


def _open_safetensors(file: Path) -> LazyTensors:
    try:
        handle = safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: not a readable safetensors file: {error}") from None
    tensors: LazyTensors = {}
    for name in handle.keys():  # noqa: SIM118 (not a mapping)
        view = handle.get_slice(name)
        if view.get_dtype() not in DTYPES:
            raise InputError(f"{file}: {name} is {view.get_dtype()}, expected one of {', '.join(DTYPES)}")
        tensors[name] = LazyTensor(
            shape=tuple(view.get_shape()),
            dtype=DTYPES[view.get_dtype()],
            read=lambda name=name: handle.get_tensor(name),  # type: ignore[misc]
            origin=Origin(file, name),
        )
    return tensors


def _open_pickle(file: Path) -> LazyTensors:
    try:
        # files from before torch 1.6 are no archives and cannot be mapped
        held = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{file}: not a plain file of weights: {reason}") from None
    if not isinstance(held, dict) or not all(isinstance(value, Tensor) for value in held.values()):
        raise InputError(f"{file}: found a {type(held).__name__}, expected a state dict of tensors by name")
    tensors = in_memory(held)
    return {
        name: LazyTensor(tensor.shape, tensor.dtype, tensor.read, Origin(file, name))
        for name, tensor in tensors.items()
    }
