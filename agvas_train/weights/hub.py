"""Where a named source lies: a local path, or a model of the hub in its cache here. The network only if asked for."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HFValidationError

from agvas_runtime.errors import InputError

WANTED_FILES = ("*.json", "*.safetensors")
"""Of a hub model: configuration, tokenizer and weights; `OLDER_FILES` where it has no weights in that format."""
OLDER_FILES = ("pytorch_model*.bin",)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def locate(source: str, *, download: bool = False) -> Path:
    """The folder or file that `source` names.

    Args:
        source: a path; or `organisation/name` of a hub model, unless a path of that name exists.
        download: let a hub model that is not in the local cache be fetched. Never happens otherwise, so that a
            mistyped path stays on this machine.

    Raises:
        InputError: there is no such path, and no such model in the cache or on the hub.
    """
    path = Path(source).expanduser()
    if source and path.exists():
        return path
    if not _HUB_ID.fullmatch(source):
        raise InputError(f"{source}: no such folder or file")
    return _fetched(source) if download else _cached(source)


def _cached(name: str) -> Path:
    try:
        return Path(snapshot_download(name, local_files_only=True, allow_patterns=list(WANTED_FILES)))
    except (OSError, HFValidationError):  # not there, or only a part of it
        raise InputError(
            f"{name}: no such folder or file, and no complete model of that name in the hub's cache "
            f"{constants.HF_HUB_CACHE}; --download or `hf download {name}` fetches it"
        ) from None


def _fetched(name: str) -> Path:
    try:
        folder = Path(snapshot_download(name, allow_patterns=list(WANTED_FILES)))
        if not any(folder.glob("*.safetensors")):
            snapshot_download(name, allow_patterns=list(OLDER_FILES))
        return folder
    except Exception as error:  # the hub's own errors, its transport's and the disk's share no other base
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{name}: no such folder or file, and the hub does not give a model: {reason}") from None
