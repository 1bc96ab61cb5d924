"""What is measured: engines, each with a bundle or a checkpoint, as the command line names them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from agvas_runtime import console
from agvas_runtime.bundle import MANIFEST, default_bundle_path
from agvas_runtime.engines.registry import OF_BUNDLES, Segments, engine_names, open_segmenter
from agvas_runtime.errors import InputError
from agvas_runtime.hashing import remembered_sha256, sha256_file

PLAIN = "-plain"
"""Behind the name of an engine of bundles: the same graphs, decoding token by token, no known answer tried."""
REFERENCE = "reference"
"""The engine that everything is compared with."""
BUNDLE, CHECKPOINT = "bundle", "checkpoint"
USUAL_ENGINE = {BUNDLE: OF_BUNDLES[0], CHECKPOINT: REFERENCE}
CHECKPOINT_FILE = "config.json"
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Contender:
    """One thing to measure: an engine with a bundle or checkpoint (None: the embedded one)."""

    name: str
    engine: str
    path: Path | None

    @classmethod
    def parse(cls, text: str) -> "Contender":
        """From `[NAME=]ENGINE[:PATH]`. Raises InputError."""
        head, _, path = text.partition(":")
        name, equals, engine = head.rpartition("=")
        if not engine or (equals and not name):
            raise InputError(f"contender {text!r}: must be [NAME=]ENGINE[:PATH]")
        return cls.of(engine, Path(path) if path else None, name)

    @classmethod
    def of(cls, engine: str, path: Path | None, name: str = "") -> "Contender":
        """A contender that is called `ENGINE:PATH` unless it has a name."""
        return cls(name or f"{engine}:{path or 'embedded'}", engine, path)

    @property
    def single_pass(self) -> bool:
        """Whether it tries the known answers in one pass."""
        return self.engine in OF_BUNDLES

    @property
    def model_sha256(self) -> str | None:
        """Hash of a bundle's manifest, which holds those of its files; or of a checkpoint, see `checkpoint_sha256`.

        None of a checkpoint that is embedded, and where there is no such folder.
        """
        if self.engine.removesuffix(PLAIN) in OF_BUNDLES:
            manifest = (self.path or default_bundle_path()) / MANIFEST
            return sha256_file(manifest) if manifest.is_file() else None
        return checkpoint_sha256(self.path) if self.path is not None and self.path.is_dir() else None

    def open(self, threads: int | None) -> Segments:
        """Load it. Raises InputError, EngineError."""
        if not self.engine.endswith(PLAIN):
            return open_segmenter(self.engine, self.path, threads)
        from agvas_runtime.engines.ort import share_threads
        from agvas_runtime.segmenter import Segmenter

        share_threads(threads)
        return Segmenter.open(self.path, engine=self.engine.removesuffix(PLAIN), threads=threads, speculate=False)


def contenders_of(targets: Sequence[Path], engines: str | None, named: Sequence[str]) -> list[Contender]:
    """The contenders that a command line asks for, none of them opened.

    Args:
        targets: folders of bundles and checkpoints; the embedded ones where there are none.
        engines: names with commas; every target gets those that fit its kind. None is ORT for a bundle and the
            reference for a checkpoint.
        named: `[NAME=]ENGINE[:PATH]` each, instead of the other two.

    Raises InputError.
    """
    if named:
        if targets or engines is not None:
            raise InputError("can't use --contender beside targets or --engine; choose one way")
        contenders = [Contender.parse(text) for text in named]
    else:
        contenders = _paired(targets, engines)
    seen = [contender.name for contender in contenders]
    if twice := [name for name in seen if seen.count(name) > 1]:
        raise InputError(f"two contenders are called {twice[0]!r}: name them apart, --contender NAME={twice[0]}")
    return contenders


def _paired(targets: Sequence[Path], engines: str | None) -> list[Contender]:
    names = None if engines is None else [name.strip() for name in engines.split(",") if name.strip()]
    if names == []:
        raise InputError("--engine names no engine")
    if not targets:
        return [Contender.of(name, None) for name in names or [USUAL_ENGINE[BUNDLE]]]
    kinds = {target: kind_of(target) for target in targets}
    for name in names or ():
        if not any(_fits(name, kind) for kind in kinds.values()):
            found = " and ".join(f"{kind}s" for kind in sorted(set(kinds.values())))
            raise InputError(f"--engine {name}: fits no target, which are {found}")
    return [
        Contender.of(name, target)
        for target in targets
        for name in names or [USUAL_ENGINE[kinds[target]]]
        if _fits(name, kinds[target])
    ]


def kind_of(target: Path) -> str:
    """BUNDLE or CHECKPOINT, by the files that lie in the folder. Raises InputError where it is neither."""
    for file, kind in ((MANIFEST, BUNDLE), (CHECKPOINT_FILE, CHECKPOINT)):
        if (target / file).is_file():
            return kind
    if not target.is_dir():
        raise InputError(
            f"{target}: {'not a' if target.exists() else 'no such'} folder; expected a bundle or checkpoint"
        )
    raise InputError(f"{target}: found neither {MANIFEST} (of a bundle) nor {CHECKPOINT_FILE} (of a checkpoint)")


def checkpoint_sha256(folder: Path) -> str:
    """SHA-256 of a checkpoint's files' names and contents, whenever they were written and wherever they lie.

    Of shards whose SHA-256 the checkpoint's own index records, that is taken; other files are read, which shows
    progress, large ones once as long as they are untouched. Raises OSError.
    """
    files = sorted(file for file in folder.iterdir() if file.is_file())
    recorded = _recorded(folder / INDEX)
    told = [
        f"{file.name} {recorded.get(file.name) or remembered_sha256(file)}"
        for file in console.progress(files, "hashing the checkpoint", len(files))
    ]
    return sha256("\n".join(told).encode("utf-8", "surrogateescape")).hexdigest()


def _recorded(index: Path) -> dict[str, str]:
    """The hashes of shards in an index as this project writes it; none in others."""
    try:
        files = json.loads(index.read_text("utf-8"))["metadata"]["files"]
        return {str(name): str(entry["sha256"]) for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _fits(engine: str, kind: str) -> bool:
    """Whether an engine runs this kind; one that nobody knows fits all, and opening it says what is wrong."""
    if engine.removesuffix(PLAIN) in OF_BUNDLES:
        return kind == BUNDLE
    return kind == CHECKPOINT or engine not in engine_names()
