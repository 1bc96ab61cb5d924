"""Which plans are trusted, and building those that are missing.

A plan is native code. It is only loaded where its hash stands in the engines.json beside it, nobody but the user or
root can have written there, and GPU, TensorRT and driver are those it was built with. None is taken from elsewhere.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from agvas_runtime.bundle import Bundle
from agvas_runtime.engines.device import Device, probe
from agvas_runtime.engines.private import check_private, home_to_write, homes, locked, make_folders, write_private
from agvas_runtime.engines.records import EngineList, PlanEntry, Target, plain
from agvas_runtime.engines.tensorrt_build import Built, Options, build_plan
from agvas_runtime.errors import BundleError, EngineError, InputError
from agvas_runtime.hashing import remembered_sha256
from agvas_runtime.manifest import EnginePlan

LIST, TIMING_CACHE = "engines.json", "timing.cache"

Report = Callable[[str, str, float], None]
"""Gets the graph, what is done to it, and how much of it is done, 0 to 1; from any thread. Raising stops the build."""


@dataclass(frozen=True)
class BuiltGraph:
    """What `build_engines` did for a graph."""

    graph: str
    path: Path
    entry: PlanEntry
    kept: bool
    """True where the plan was there already."""


def read_list(bundle: Bundle, target: Target, home: Path) -> EngineList:
    """The list of plans for this target in one of the bundle's homes of engines.

    Raises EngineError where there is none or it cannot be read, BundleError where it is not safe.
    """
    folder, build = home / target.folder, _build_hint(bundle)
    try:
        if os.path.lexists(home):
            check_private(home, is_folder=True)
        if not os.path.lexists(folder):
            siblings = home.iterdir() if home.is_dir() else ()
            others = ", ".join(sorted(path.name for path in siblings if path.is_dir())) or "none"
            here = f"{target.gpu} with TensorRT {target.tensorrt}"
            raise EngineError(f"{bundle.folder}: no engines for {here} (there are: {others}): {build}")
        check_private(folder, is_folder=True)
        check_private(folder / LIST, is_folder=False)
        found = EngineList.model_validate_json((folder / LIST).read_bytes())
    except FileNotFoundError:
        raise EngineError(f"{folder}: no {LIST}, so nothing here can be trusted: {build}") from None
    except OSError as error:
        raise EngineError(f"{folder}: cannot be read: {error.strerror}: {build}") from None
    except ValidationError:
        raise BundleError(f"{folder}: {LIST} cannot be read: {build}") from None
    if difference := found.target.differs(target):
        raise EngineError(f"{folder}: {difference}: {build}")
    return found


def find_plan(bundle: Bundle, target: Target, graph: str) -> tuple[Path, PlanEntry]:
    """The plan of a graph, from the first home where everything about it is right; its content is verified.

    Raises EngineError where it is missing, or made from another graph; BundleError where it is altered or unsafe.
    """
    failures: list[tuple[bool, Exception]] = []
    for home in homes(bundle):
        try:
            return _checked_plan(bundle, target, graph, home)
        except (EngineError, BundleError) as error:
            failures.append((os.path.lexists(home / target.folder), error))
    raise next((error for exists, error in failures if exists), failures[0][1])


def _checked_plan(bundle: Bundle, target: Target, graph: str, home: Path) -> tuple[Path, PlanEntry]:
    found, folder, build = read_list(bundle, target, home), home / target.folder, _build_hint(bundle)
    if graph not in found.plans:
        raise EngineError(f"{folder}: {LIST} lists no plan of graph {graph}: {build}")
    entry = found.plans[graph]
    if difference := _stale(bundle, graph, entry):
        raise EngineError(f"{folder}: {entry.file}: {difference}: {build}")
    path = folder / entry.file
    try:
        check_private(path, is_folder=False)
        size, sha256 = path.stat().st_size, remembered_sha256(path)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise EngineError(f"{path}: {'is missing' if missing else error.strerror}: {build}") from None
    if size != entry.size or sha256 != entry.sha256:
        listed = f"{entry.size} bytes with sha256 {entry.sha256[:12]}..."
        raise BundleError(
            f"{path}: is altered ({size} bytes with sha256 {sha256[:12]}..., {LIST} says {listed}): {build}"
        )
    return path, entry


def write_plan(bundle: Bundle, target: Target, graph: str, built: Built) -> tuple[Path, PlanEntry]:
    """Keep a plan and list it; what was listed before for this target stays. Raises EngineError, BundleError."""
    home = home_to_write(bundle)
    folder = make_folders(home, target.folder)
    content = memoryview(built.plan)
    entry = PlanEntry(
        file=f"{plain(graph)}.plan",
        sha256=hashlib.sha256(content).hexdigest(),
        size=content.nbytes,
        sources=_sources(bundle, graph),
        precision=plan_of(bundle).precision,
        ranges=_ranges(bundle, graph),
        workspace_bytes=built.workspace_bytes,
        seconds=round(built.seconds, 3),
        peak_host_bytes=built.peak_host_bytes,
        peak_device_bytes=built.peak_device_bytes,
        warnings=built.warnings,
    )
    try:
        listed = read_list(bundle, target, home).plans
    except (EngineError, BundleError):
        listed = {}  # nothing there, or for another driver: of no use either way
    write_private(folder / entry.file, content)
    if built.timing_cache:
        write_private(folder / TIMING_CACHE, built.timing_cache)
    listed = {**{name: other for name, other in listed.items() if name in bundle.manifest.graphs}, graph: entry}
    document = EngineList(target=target, plans=listed).model_dump_json(indent=2)
    write_private(folder / LIST, document.encode() + b"\n")
    return folder / entry.file, entry


def build_engines(
    bundle: Bundle,
    *,
    workspace_mb: int | None = None,
    force: bool = False,
    report: Report | None = None,
    waiting: Callable[[], None] | None = None,
) -> Iterator[BuiltGraph]:
    """Build what is missing or out of date, one graph after another; each is kept as soon as it is done.

    Where nothing is missing nothing is written, so that a bundle that cannot be written to is no obstacle.

    Args:
        bundle: exported with an engine plan.
        workspace_mb: the most that one layer may use while it runs; None takes a share of the free memory.
        force: build what is up to date, too.
        report: is told the progress, and stops the build by raising.
        waiting: called as long as another build of these engines runs; None raises EngineError instead.

    Raises:
        InputError: the bundle has no engine plan.
        EngineError: no GPU or TensorRT, another build is running, or a graph cannot be built; earlier graphs stay.
        BundleError: the folder of engines is not safe.
    """
    wanted = plan_of(bundle)
    device = probe()
    target = Target.of(device)
    kept = [] if force else [_kept(bundle, target, graph) for graph in wanted.graphs]
    present = [built for built in kept if built]
    if len(present) == len(wanted.graphs):
        yield from present
        return
    home = home_to_write(bundle)
    folder = make_folders(home, target.folder)
    options = Options(wanted.precision, wanted.ranges, workspace_mb * 2**20 if workspace_mb else None)
    with locked(home, waiting):
        for graph in wanted.graphs:  # compared again: another build may have made them meanwhile
            if not force and (found := _kept(bundle, target, graph)):
                yield found
                continue
            if report:
                report(graph, "building", 0.0)
            eight = bundle.manifest.graphs[graph].precision == "fp8"  # the language model's may be, in a plan of fp16
            precision = "fp8" if eight else wanted.precision
            current = replace(options, precision=precision, timing_cache=_timing_cache(folder))
            built = _build(bundle, device, current, graph, report)
            yield BuiltGraph(graph, *write_plan(bundle, target, graph, built), kept=False)


def _build(bundle: Bundle, device: Device, options: Options, graph: str, report: Report | None) -> Built:
    spec = bundle.manifest.graphs[graph]
    return build_plan(
        bundle.graph_path(graph),
        device,
        options,
        name=graph,
        weight_bytes=sum(bundle.manifest.files[file].size for file in (spec.file, *spec.data)),
        inputs={tensor.name: tensor.shape for tensor in spec.inputs},
        progress=None if report is None else lambda phase, done: report(graph, phase, done),
    )


def plan_of(bundle: Bundle) -> EnginePlan:
    """What the bundle wants to become. Raises InputError where it was not made for TensorRT."""
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
    return {name: limits for name, limits in plan_of(bundle).ranges.items() if name in sizes}


def _stale(bundle: Bundle, graph: str, entry: PlanEntry) -> str:
    """Why an entry is not made from the bundle's graph as it is now; empty where it is."""
    if entry.sources != _sources(bundle, graph):
        return "built from another version of the graph"
    if entry.precision != plan_of(bundle).precision:
        return f"built as {entry.precision}, the bundle wants {plan_of(bundle).precision}"
    if entry.ranges != _ranges(bundle, graph):
        return "built for other sizes"
    return ""


def _kept(bundle: Bundle, target: Target, graph: str) -> BuiltGraph | None:
    try:
        return BuiltGraph(graph, *find_plan(bundle, target, graph), kept=True)
    except (EngineError, BundleError):
        return None  # building replaces it, whatever is wrong; the folders are checked then


def _timing_cache(folder: Path) -> bytes:
    path = folder / TIMING_CACHE
    if not os.path.lexists(path):
        return b""
    check_private(path, is_folder=False)
    return path.read_bytes()


def _build_hint(bundle: Bundle) -> str:
    return f"run: agvas-runtime build {bundle.folder}"
