"""A bundle: the folder that holds a deployable model. Opening verifies everything; writing lists and hashes everything.

Nothing is parsed before its hash is verified (the manifest aside), no path may leave the folder, nothing is unpickled.
What the files mean to the pipeline is the segmenter's business.
"""

import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from agvas_runtime.errors import BundleError
from agvas_runtime.files import PART
from agvas_runtime.hashing import remembered_sha256
from agvas_runtime.manifest import SCHEMA_VERSION, FileEntry, content_digest
from agvas_runtime.manifest import Manifest as Manifest

MANIFEST, TOKENIZER, TEMPLATES, EMBEDDINGS = "manifest.json", "tokenizer.json", "templates.json", "embeddings.npy"
CARD = "MODEL_CARD.md"
ENGINES = "engines"
"""Folder of what was built on this machine; no part of the bundle's hashes."""


def default_bundle_path() -> Path:
    """The embedded tiny bundle, used where no bundle is named."""
    return Path(__file__).parent / "default"


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. `open` is the only way in that checks anything."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path | str, verify_full: bool = False) -> "Bundle":
        """Verify a bundle's schema, paths, sizes and hashes. Raises BundleError (one line) at the first fault.

        Hashes of large untouched files are remembered from the last time, unless `verify_full`.
        """
        folder = Path(path)
        content, manifest = _read_manifest(folder)
        for required in (TOKENIZER, TEMPLATES, EMBEDDINGS):
            if required not in manifest.files:
                raise BundleError(f"{folder}: {required} is not listed in {MANIFEST}")
        for name, entry in manifest.files.items():
            _verify(folder, name, entry, verify_full)
        if content_digest(content) != manifest.content_sha256:
            raise BundleError(f"{folder}: {MANIFEST} is altered (its fields do not have the sha256 that it says)")
        return cls(folder, manifest)

    def path(self, name: str) -> Path:
        """Where a listed file lies. Raises BundleError for a file that the manifest does not list."""
        if name not in self.manifest.files:
            raise BundleError(f"{self.folder}: {name} is not listed in {MANIFEST}")
        return self.folder / name

    def graph_path(self, graph: str) -> Path:
        """Where a graph's ONNX file lies. Raises BundleError naming the graphs there are."""
        if graph not in self.manifest.graphs:
            have = ", ".join(self.manifest.graphs) or "none"
            raise BundleError(f"{self.folder}: no graph {graph!r} in this bundle (it has {have})")
        return self.path(self.manifest.graphs[graph].file)

    @property
    def tokenizer_json(self) -> str:
        """The tokenizer's definition. Raises BundleError."""
        try:
            return self.path(TOKENIZER).read_text("utf-8")
        except (OSError, ValueError) as error:
            raise BundleError(f"{self.folder}: {TOKENIZER}: {error}") from None

    @property
    def templates(self) -> Path:
        """Where the instruction and answer templates lie."""
        return self.path(TEMPLATES)

    def embeddings(self) -> NDArray[np.floating[Any]]:
        """Token embeddings [V,d], float32 or float16, mapped from the file."""
        width = self.manifest.model.hidden_size
        try:
            table: NDArray[np.floating[Any]] = np.load(self.path(EMBEDDINGS), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise BundleError(f"{self.folder}: {EMBEDDINGS}: {error}") from None
        if table.ndim != 2 or table.shape[1] != width or table.dtype not in (np.float32, np.float16):
            found = f"{table.dtype} {list(table.shape)}"
            raise BundleError(f"{self.folder}: {EMBEDDINGS} is {found}, must be float32 or float16 [V,{width}]")
        return table

    @property
    def size_bytes(self) -> int:
        """Bytes of all listed files."""
        return sum(entry.size for entry in self.manifest.files.values())


def complete(folder: Path, manifest: Manifest) -> Manifest:
    """The manifest with the folder's files (all but manifest.json and engines/) listed and hashed; writes nothing.

    Raises BundleError where it is none then: a file outside the folder, a number that is not finite.
    """
    files: dict[str, FileEntry] = {}
    for item in sorted(folder.rglob("*")):
        name = item.relative_to(folder).as_posix()
        if item.is_dir() or name in (MANIFEST, f".{MANIFEST}.part") or name.startswith(f"{ENGINES}/"):
            continue
        _inside(folder, name)
        files[name] = FileEntry(sha256=remembered_sha256(item), size=item.stat().st_size)
    try:
        return Manifest.model_validate({**manifest.model_dump(), "files": files})
    except ValidationError as error:
        raise BundleError(f"{folder}: {MANIFEST}: {_first_fault(error)}") from None


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Complete a manifest and write manifest.json whole or not at all. Returns it as it was written.

    Raises BundleError as `complete`; nothing is written then.
    """
    filled = complete(folder, manifest)
    digest = content_digest(filled.model_dump(mode="json"))
    filled = filled.model_copy(update={"content_sha256": digest})
    part = folder / f".{MANIFEST}.part"
    part.write_text(filled.model_dump_json(indent=2) + "\n", encoding="utf-8")
    os.replace(part, folder / MANIFEST)
    return filled


def _read_manifest(folder: Path) -> tuple[dict[str, Any], Manifest]:
    try:
        is_folder, is_there = folder.is_dir(), folder.exists()
    except OSError as error:  # such as a name that is too long
        raise BundleError(f"{folder}: {error.strerror}") from None
    if not is_folder:
        raise BundleError(f"{folder}: {'not a folder' if is_there else 'no such bundle folder'}")
    if folder.resolve().name.endswith(PART):
        raise BundleError(f"{folder}: an export that never finished, not a bundle")
    try:
        content = json.loads((folder / MANIFEST).read_text("utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{folder}: no {MANIFEST}, so this is not a bundle") from None
    except OSError as error:
        raise BundleError(f"{folder}: {MANIFEST}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{folder}: {MANIFEST} is not JSON ({error})") from None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        known = f"{SCHEMA_VERSION}, which this agvas understands"
        raise BundleError(f"{folder}: schema version {version} is newer than {known}")
    try:
        return content, Manifest.model_validate(content)
    except ValidationError as error:
        raise BundleError(f"{folder}: {MANIFEST}: {_first_fault(error)}") from None


def _first_fault(error: ValidationError) -> str:
    first, *more = error.errors(include_url=False)
    where = ".".join(str(part) for part in first["loc"])
    rest = f" (and {len(more)} more)" if more else ""
    return " ".join(f"{where + ': ' if where else ''}{first['msg']}{rest}".split())


def _verify(folder: Path, name: str, entry: FileEntry, verify_full: bool) -> None:
    path = _inside(folder, name)
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise BundleError(f"{folder}: {name} is not a file")
        if size != entry.size:
            raise BundleError(f"{folder}: {name} has {size} bytes, {MANIFEST} says {entry.size}")
        found = remembered_sha256(path, again=verify_full)
    except FileNotFoundError:
        raise BundleError(f"{folder}: {name} is missing") from None
    except OSError as error:
        raise BundleError(f"{folder}: {name}: {error.strerror}") from None
    if found != entry.sha256:
        raise BundleError(
            f"{folder}: {name} is altered (sha256 {found[:12]}..., {MANIFEST} says {entry.sha256[:12]}...)"
        )


def _inside(folder: Path, name: str) -> Path:
    """The file's path. Raises BundleError unless it is a plain relative path that stays inside, links followed."""
    pure = PurePosixPath(name)
    plain = name == pure.as_posix() and not pure.is_absolute() and ".." not in pure.parts and pure.parts
    if not plain or any(char in "\\:\0" or "\ud800" <= char <= "\udfff" for char in name):
        raise BundleError(f"{folder}: {name!r} is not a plain path inside the bundle")
    path = folder / name
    try:
        stays = path.resolve().is_relative_to(folder.resolve())
    except RuntimeError:  # before Python 3.13, links in a circle
        raise BundleError(f"{folder}: {name}: {os.strerror(errno.ELOOP)}") from None
    except OSError as error:
        raise BundleError(f"{folder}: {name}: {error.strerror}") from None
    if not stays:
        raise BundleError(f"{folder}: {name} is a link that leaves the bundle")
    return path
