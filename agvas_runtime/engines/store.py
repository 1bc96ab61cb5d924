"""Where plans live and when they are trusted: BUNDLE/engines/<gpu>-<tensorrt version>/, listed in engines.json there.

A plan is native code. It is only loaded where its hash stands in the engines.json beside it, the folder belongs to the
user alone, and GPU, TensorRT and driver are those it was built with. None is ever taken from elsewhere.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agvas_runtime.bundle import ENGINES, Bundle
from agvas_runtime.engines import Engine
from agvas_runtime.engines.device import Device, probe
from agvas_runtime.engines.ort import OrtEngine
from agvas_runtime.engines.tensorrt_build import Built, Options, build_plan
from agvas_runtime.engines.tensorrt_run import Session, TrtEngine
from agvas_runtime.errors import BundleError, EngineError, InputError
from agvas_runtime.files import write_whole
from agvas_runtime.hashing import remembered_sha256
from agvas_runtime.manifest import EnginePlan, Sha256

LIST, TIMING_CACHE, LOCK = "engines.json", "timing.cache", ".lock"

Report = Callable[[str, str, float], None]
"""Gets the graph, what is done to it, and how much of that is done, 0 to 1; from any thread."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Target(_Part):
    """What a plan is good for, and nothing else."""

    gpu: str
    compute_capability: str
    tensorrt: str
    driver: str

    @classmethod
    def of(cls, device: Device) -> Target:
        """The target that a device is."""
        return cls.model_validate({name: value for name, value in asdict(device).items() if name in cls.model_fields})

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return _plain(f"{self.gpu}-{self.tensorrt}")

    def differs(self, other: Target) -> str:
        """The first field in which this, the recorded one, is not the other; empty where they are equal."""
        for name in type(self).model_fields:
            if (mine := getattr(self, name)) != (theirs := getattr(other, name)):
                return f"built for {name.replace('_', ' ')} {mine}, here it is {theirs}"
        return ""


class PlanEntry(_Part):
    """One plan, what it was made of, and what making it took."""

    file: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.plan$")
    sha256: Sha256
    size: int = Field(gt=0)
    """Bytes."""
    sources: dict[str, Sha256]
    """The graph's files in the bundle, weights included."""
    precision: str
    ranges: dict[str, tuple[int, int, int]]
    workspace_bytes: int
    seconds: float
    peak_host_bytes: int
    peak_device_bytes: int | None
    warnings: list[str]


class EngineList(_Part):
    """engines.json."""

    schema_version: Literal[1] = 1
    target: Target
    plans: dict[str, PlanEntry] = Field(default_factory=dict)


@dataclass(frozen=True)
class BuiltGraph:
    """What `build_engines` did for a graph."""

    graph: str
    path: Path
    entry: PlanEntry
    kept: bool
    """True where the plan was there already."""


def engines_folder(bundle: Bundle, target: Target) -> Path:
    """Where the plans for a target lie, or would."""
    return bundle.folder / ENGINES / target.folder


def read_list(bundle: Bundle, target: Target) -> EngineList:
    """The list of plans for this target. Raises EngineError where there is none, BundleError where it is unsafe."""
    folder, build = engines_folder(bundle, target), _build_hint(bundle)
    if not os.path.lexists(folder):
        siblings = folder.parent.iterdir() if folder.parent.is_dir() else ()
        others = ", ".join(sorted(path.name for path in siblings if path.is_dir())) or "none"
        here = f"{target.gpu} with TensorRT {target.tensorrt}"
        raise EngineError(f"{bundle.folder}: no engines for {here} (there are: {others}): {build}")
    for path in (folder.parent, folder):
        _check_private(path, is_folder=True)
    try:
        _check_private(folder / LIST, is_folder=False)
        found = EngineList.model_validate_json((folder / LIST).read_bytes())
    except FileNotFoundError:
        raise EngineError(f"{folder}: no {LIST}, so nothing here can be trusted: {build}") from None
    except ValidationError:
        raise BundleError(f"{folder}: {LIST} cannot be read: {build}") from None
    if difference := found.target.differs(target):
        raise EngineError(f"{folder}: {difference}: {build}")
    return found


def read_plan(bundle: Bundle, target: Target, graph: str) -> mmap.mmap:
    """The plan of a graph, mapped from its file after everything about it was checked.

    Raises EngineError where it is missing, or made from another graph; BundleError where it is altered or unsafe.
    """
    found, folder, build = read_list(bundle, target), engines_folder(bundle, target), _build_hint(bundle)
    if graph not in found.plans:
        raise EngineError(f"{folder}: {LIST} lists no plan of graph {graph}: {build}")
    entry = found.plans[graph]
    if difference := _stale(bundle, graph, entry):
        raise EngineError(f"{folder}: {entry.file}: {difference}: {build}")
    path = folder / entry.file
    _check_plan(path, entry, build)
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def write_plan(bundle: Bundle, target: Target, graph: str, built: Built) -> PlanEntry:
    """Keep a plan and list it; what was listed before for this target stays. Raises EngineError, BundleError."""
    folder = _make_folders(bundle, target)
    plan = memoryview(built.plan)
    entry = PlanEntry(
        file=f"{_plain(graph)}.plan",
        sha256=hashlib.sha256(plan).hexdigest(),
        size=plan.nbytes,
        sources=_sources(bundle, graph),
        precision=_plan_of(bundle).precision,
        ranges=_ranges(bundle, graph),
        workspace_bytes=built.workspace_bytes,
        seconds=round(built.seconds, 3),
        peak_host_bytes=built.peak_host_bytes,
        peak_device_bytes=built.peak_device_bytes,
        warnings=built.warnings,
    )
    try:
        listed = read_list(bundle, target).plans
    except (EngineError, BundleError):
        listed = {}  # nothing there, or for another driver: of no use either way
    _write(folder / entry.file, plan)
    _write(folder / TIMING_CACHE, built.timing_cache)
    listed = {**{name: other for name, other in listed.items() if name in bundle.manifest.graphs}, graph: entry}
    _write(folder / LIST, EngineList(target=target, plans=listed).model_dump_json(indent=2).encode() + b"\n")
    return entry


def build_engines(
    bundle: Bundle, *, workspace_mb: int | None = None, force: bool = False, report: Report | None = None
) -> Iterator[BuiltGraph]:
    """Build what is missing or out of date, one graph after another; each is kept as soon as it is done.

    Args:
        bundle: exported with an engine plan.
        workspace_mb: the most that one layer may use while it runs; None takes a share of the free memory.
        force: build what is up to date, too.
        report: is told the progress.

    Raises:
        InputError: the bundle has no engine plan.
        EngineError: no GPU or TensorRT, another build is running, or a graph cannot be built; earlier graphs stay.
        BundleError: the folder of engines is not safe.
    """
    wanted = _plan_of(bundle)
    device = probe()
    target = Target.of(device)
    folder = _make_folders(bundle, target)
    options = Options(wanted.precision, wanted.ranges, workspace_mb * 2**20 if workspace_mb else None)
    with _locked(bundle):
        for graph in wanted.graphs:
            entry = None if force else _up_to_date(bundle, target, graph)
            kept = entry is not None
            if entry is None:
                if report:
                    report(graph, "building", 0.0)
                spec = bundle.manifest.graphs[graph]
                built = build_plan(
                    bundle.graph_path(graph),
                    device,
                    Options(options.precision, options.ranges, options.workspace_bytes, _timing_cache(folder)),
                    name=graph,
                    weight_bytes=sum(bundle.manifest.files[file].size for file in (spec.file, *spec.data)),
                    inputs={tensor.name: tensor.shape for tensor in spec.inputs},
                    progress=_bound(report, graph),
                )
                entry = write_plan(bundle, target, graph, built)
            yield BuiltGraph(graph, folder / entry.file, entry, kept)


def open_engines(bundle: Bundle, graphs: Sequence[str] | None = None, threads: int | None = None) -> dict[str, Engine]:
    """Engines for these graphs of the bundle (None: all): TensorRT where its plan says so, ONNX Runtime for the rest.

    ONNX Runtime uses CUDA where it has it, else the CPU with this many threads.

    Raises:
        InputError: the bundle has no engine plan.
        EngineError: no GPU or TensorRT here, or an engine is missing, for another device, or does not load.
        BundleError: a plan is altered or lies where others could have put it.
    """
    wanted = _plan_of(bundle)
    target = Target.of(probe())
    names = list(bundle.manifest.graphs) if graphs is None else list(graphs)
    plans = {name: read_plan(bundle, target, name) for name in names if name in wanted.graphs}
    engines: dict[str, Engine] = {}
    session = Session()
    try:
        for name in names:
            if name in plans:
                with plans[name] as plan:
                    engines[name] = TrtEngine(name, plan, session)
            else:
                engines[name] = OrtEngine(bundle.graph_path(name), threads, _ort_providers())
    except BaseException:
        session.close()
        raise
    return engines


def _ort_providers() -> tuple[str, ...]:
    try:
        from onnxruntime import get_available_providers
    except ImportError:
        return ("CPUExecutionProvider",)  # OrtEngine says what is missing
    wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
    return tuple(name for name in wanted if name in get_available_providers())


def _plan_of(bundle: Bundle) -> EnginePlan:
    if bundle.manifest.engine_plan is None:
        how = "export one with: agvas-export CHECKPOINT --trt fp16 --defer --out DIR"
        raise InputError(f"{bundle.folder}: this bundle's graphs were not made for TensorRT; {how}")
    return bundle.manifest.engine_plan


def _sources(bundle: Bundle, graph: str) -> dict[str, str]:
    spec = bundle.manifest.graphs[graph]
    return {file: bundle.manifest.files[file].sha256 for file in (spec.file, *spec.data)}


def _ranges(bundle: Bundle, graph: str) -> dict[str, tuple[int, int, int]]:
    """Of the dimensions that this graph's inputs have."""
    sizes = {size for tensor in bundle.manifest.graphs[graph].inputs for size in tensor.shape}
    return {name: limits for name, limits in _plan_of(bundle).ranges.items() if name in sizes}


def _stale(bundle: Bundle, graph: str, entry: PlanEntry) -> str:
    """Why an entry is not made from the bundle's graph as it is now; empty where it is."""
    if entry.sources != _sources(bundle, graph):
        return "built from another version of the graph"
    if entry.precision != _plan_of(bundle).precision:
        return f"built as {entry.precision}, the bundle wants {_plan_of(bundle).precision}"
    if entry.ranges != _ranges(bundle, graph):
        return "built for other sizes"
    return ""


def _up_to_date(bundle: Bundle, target: Target, graph: str) -> PlanEntry | None:
    try:
        read_plan(bundle, target, graph).close()
        return read_list(bundle, target).plans[graph]
    except (EngineError, BundleError):
        return None  # building replaces it, whatever is wrong; the folders were checked before


def _check_plan(path: Path, entry: PlanEntry, build: str) -> None:
    try:
        _check_private(path, is_folder=False)
        size, found = path.stat().st_size, remembered_sha256(path)
    except FileNotFoundError:
        raise EngineError(f"{path}: is missing: {build}") from None
    if size != entry.size or found != entry.sha256:
        listed = f"{entry.size} bytes with sha256 {entry.sha256[:12]}..."
        raise BundleError(
            f"{path}: is altered ({size} bytes with sha256 {found[:12]}..., {LIST} says {listed}): {build}"
        )


def _make_folders(bundle: Bundle, target: Target) -> Path:
    folder = engines_folder(bundle, target)
    try:
        for path in (folder.parent, folder):
            if not os.path.lexists(path):
                path.mkdir(mode=0o700)
            _check_private(path, is_folder=True)
    except OSError as error:
        raise EngineError(f"{folder}: cannot make this folder: {error.strerror}") from None
    return folder


def _check_private(path: Path, is_folder: bool) -> None:
    """Raise BundleError unless this is a folder or file of the user's own that nobody else could have written."""
    status = path.lstat()
    if not (stat.S_ISDIR if is_folder else stat.S_ISREG)(status.st_mode):
        found = "a link" if stat.S_ISLNK(status.st_mode) else f"no {'folder' if is_folder else 'file'}"
        raise BundleError(f"{path}: is {found}; engines are native code and only taken from where they were built")
    if status.st_uid != os.geteuid():
        raise BundleError(
            f"{path}: belongs to user {status.st_uid}, not to you ({os.geteuid()}); build your own engines"
        )
    if status.st_mode & (0o077 if is_folder else 0o022):
        others = f"chmod {'700' if is_folder else '600'} {path}"
        raise BundleError(f"{path}: is open to other users; if its content is yours: {others}")


@contextmanager
def _locked(bundle: Bundle) -> Iterator[None]:
    """Hold the lock of this bundle's builds; it goes with the process that holds it."""
    path = bundle.folder / ENGINES / LOCK
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise EngineError(f"{path}: {error.strerror}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise EngineError(f"{bundle.folder}: another build of its engines is running") from None
    try:
        yield
    finally:
        os.close(handle)


def _timing_cache(folder: Path) -> bytes:
    path = folder / TIMING_CACHE
    if not os.path.lexists(path):
        return b""
    _check_private(path, is_folder=False)
    return path.read_bytes()


def _write(path: Path, content: Any) -> None:
    """Write a private file whole or not at all."""
    mask = os.umask(0o077)
    try:
        write_whole(path, content)
    finally:
        os.umask(mask)


def _bound(report: Report | None, graph: str) -> Callable[[str, float], None] | None:
    return None if report is None else lambda phase, done: report(graph, phase, done)


def _build_hint(bundle: Bundle) -> str:
    return f"run: agvas-runtime build {bundle.folder}"


def _plain(name: str) -> str:
    """The name in lower-case letters, digits, dots and hyphens."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.") or "unnamed"
