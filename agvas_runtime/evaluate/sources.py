"""Where answers come from: a bundle or checkpoint that is run, or score maps that another program wrote.

A source is a few words that can be sent to a process, which opens it there.
"""

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, Protocol
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.bundle import default_bundle_path
from agvas_runtime.datasets import Item
from agvas_runtime.engines.registry import OF_BUNDLES, Segments, ask, open_segmenter
from agvas_runtime.errors import InputError
from agvas_runtime.evaluate.score import NO_ANSWER, Answer
from agvas_runtime.frames import nominal_range, open_image, read_bytes, read_image
from agvas_runtime.modes import Request
from agvas_runtime.verdict import Verdict

Asks = Callable[[Item], Answer]

MAP_SUFFIXES = (".npy", ".png")


class Source(Protocol):
    """Something that can be opened and then asked about images."""

    def open(self) -> tuple[Asks, str]:
        """What answers, and what has to be said beside its figures. Raises InputError, EngineError."""
        ...

    def settings(self, items: Iterable[Item]) -> dict[str, Any]:
        """All that its answers to these images depend on, for the report and for `--resume`."""
        ...


@dataclass(frozen=True)
class Model:
    """A bundle, or a checkpoint for the engines in PyTorch."""

    engine: str = "ort"
    path: Path | None = None
    request: Request = field(default_factory=Request)
    threads: int | None = None

    def open(self) -> tuple[Asks, str]:
        """As `Source.open`."""
        segmenter = open_segmenter(self.engine, self.path, self.threads)
        return asks(segmenter, self.request), segmenter.weights_note

    def settings(self, items: Iterable[Item]) -> dict[str, Any]:
        """Engine, request and which model; not the threads."""
        request = {**asdict(self.request), "mode": self.request.mode.value}
        return {"engine": self.engine, "model": os.path.abspath(self.path) if self.path else "embedded",
                "model_fingerprint": self._fingerprint(), **request}  # fmt: skip

    def _fingerprint(self) -> str | None:
        """A hash of a bundle's manifest, which holds those of its files; of a checkpoint's files' names and times."""
        if self.engine in OF_BUNDLES:
            manifest = (self.path or default_bundle_path()) / "manifest.json"
            return sha256(manifest.read_bytes()).hexdigest() if manifest.is_file() else None
        if self.path is None or not self.path.is_dir():
            return None
        return _hash_of(self.path, (file for file in self.path.iterdir() if file.is_file()))


def _hash_of(folder: Path, files: Iterable[Path]) -> str:
    """A hash of the files' paths below the folder, their sizes and times."""
    listed = sorted((file.relative_to(folder).as_posix(), file.stat()) for file in files)
    told = [f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in listed]
    return sha256("\n".join(told).encode("utf-8", "surrogateescape")).hexdigest()


def asks(segmenter: Segments, request: Request) -> Asks:
    """A segmenter as what answers; the time is the whole call's, from the file to mask and map."""

    def answer(item: Item) -> Answer:
        begin = time.perf_counter()
        result = ask(segmenter, item.image, request)
        unanswered = result.verdict is Verdict.NO_ANSWER
        probability = np.zeros(result.size, np.float32) if unanswered else result.probability
        elapsed_ms = (time.perf_counter() - begin) * 1e3
        known = result.scores.p_answer + result.scores.p_reject > 0
        return Answer(
            probability=probability,
            threshold=result.threshold,
            outcome=NO_ANSWER if unanswered else result.answer_kind.value,
            reason=result.reason,
            answer_score=result.scores.anomaly if known else None,
            elapsed_ms=elapsed_ms,
            instruction=result.instruction,
        )

    return answer


@dataclass(frozen=True)
class Maps:
    """A folder of score maps: for the image `tile/test/crack/000.png` the map `tile/test/crack/000.npy` or `.png`."""

    folder: Path
    threshold: float | None = None
    """What a pixel of the mask is above; None means 0.5, of maps within [0,1]."""

    def open(self) -> tuple[Asks, str]:
        """As `Source.open`."""
        if not self.folder.is_dir():
            raise InputError(f"{self.folder}: no such folder of score maps")
        return self._answer, ""

    def settings(self, items: Iterable[Item]) -> dict[str, Any]:
        """The folder, which maps of the images are in it, and the threshold."""
        maps = {path for item in items for path in self._maps(item)}
        return {"engine": "maps", "model": os.path.abspath(self.folder),
                "model_fingerprint": _hash_of(self.folder, maps), "threshold": self.threshold}  # fmt: skip

    def _maps(self, item: Item) -> list[Path]:
        """An image's maps that are there: one, if all is well."""
        pure = PurePosixPath(item.name).with_suffix("")
        return [path for suffix in MAP_SUFFIXES if (path := self.folder / f"{pure}{suffix}").is_file()]

    def _answer(self, item: Item) -> Answer:
        found = self._maps(item)
        if len(found) != 1:
            wanted = f"{self.folder / PurePosixPath(item.name).with_suffix('')}{' or '.join(MAP_SUFFIXES)}"
            raise InputError(f"{item.image}: found {len(found)} score maps, expected one: {wanted}")
        scores = read_map(found[0])
        height, width = read_image(item.image).shape[:2]
        if scores.shape != (height, width):
            sides = f"{scores.shape[1]} x {scores.shape[0]}, its image {item.image} {width} x {height}"
            raise InputError(f"{found[0]}: the score map is {sides}; must be the same")
        low, high = float(scores.min()), float(scores.max())
        if self.threshold is None and not 0 <= low <= high <= 1:
            raise InputError(f"{found[0]}: found scores from {low:g} to {high:g}, expected [0,1] or a --threshold")
        return Answer(scores, 0.5 if self.threshold is None else self.threshold, "map")


def read_map(path: Path) -> NDArray[np.float32]:
    """A score map -> float32 [H,W]. Floats as they are; unsigned integers by their format's largest value.

    NPY: bool, uint8, uint16 or floats, finite, [H,W]. PNG: grey of 8 or 16 bits. Raises InputError by name.
    """
    if path.suffix == ".png":
        image = open_image(read_bytes(path), str(path))
        if image.mode != "L" and not image.mode.startswith("I"):
            raise InputError(f"{path}: found pixels in mode {image.mode}, expected grey of 8 or 16 bits")
        top = 255 if image.mode == "L" else nominal_range(image, str(path))
        return _as_share(np.asarray(image), top)
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, BadZipFile, MemoryError) as error:
        raise InputError(f"{path}: no NPY array ({' '.join(str(error).split())})") from None
    if not isinstance(values, np.ndarray):
        raise InputError(f"{path}: found an archive of arrays, expected one array")
    if values.ndim != 2 or not values.size or values.dtype not in (bool, np.uint8, np.uint16, "f2", "f4", "f8"):
        found = f"{values.dtype} {list(values.shape)}"
        raise InputError(f"{path}: found {found}, expected bool, uint8, uint16 or float [H, W]")
    if values.dtype.kind == "u":
        return _as_share(values, np.iinfo(values.dtype).max)
    with np.errstate(over="ignore"):  # becomes infinite, which is said below
        scores: NDArray[np.float32] = values.astype(np.float32)
    if not np.isfinite(scores).all():
        raise InputError(f"{path}: holds NaN or infinite scores")
    return scores


def _as_share(values: NDArray[Any], top: int) -> NDArray[np.float32]:
    shares: NDArray[np.float32] = values.astype(np.float32) / np.float32(top)
    return shares
