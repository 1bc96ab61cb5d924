"""`agvas-runtime build`: native TensorRT engines of a bundle, for the GPU of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from agvas_runtime import console

if TYPE_CHECKING:
    from agvas_runtime.engines.store import BuiltGraph, Report


def build(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder, exported with --trt.")],
    workspace_mb: Annotated[
        int | None, typer.Option(min=1, help="Most memory that one layer may use; a share of what is free by default.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Build engines that are up to date, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    r"""Build a bundle's TensorRT engines on the GPU they are to run on.

    They are kept in BUNDLE/engines, for this GPU and TensorRT version, or in your cache where you cannot write to the
    bundle. What is there already and up to date stays.

    \b
    Examples:
      agvas-runtime build bundles/fp16
      agvas-runtime build bundles/fp16 --workspace-mb 1024 --json
    """
    from agvas_runtime.bundle import Bundle
    from agvas_runtime.engines.store import build_engines

    opened = Bundle.open(bundle)
    finished: list[BuiltGraph] = []
    try:
        with build_progress() as report:
            for built in build_engines(opened, workspace_mb=workspace_mb, force=force, report=report):
                finished.append(built)
    finally:
        if not as_json:
            for built in finished:  # also where a later one failed: these stay
                took = "up to date" if built.kept else f"{built.entry.seconds:.1f} s"
                print(f"{built.graph:17} {built.path.name:25} {built.entry.size / 1e6:9.2f} MB  {took}")
    megabytes = sum(built.entry.size for built in finished) / 1e6
    seconds = sum(built.entry.seconds for built in finished if not built.kept)
    if as_json:
        rows = [
            {"graph": built.graph, "path": str(built.path), "kept": built.kept} | built.entry.model_dump(mode="json")
            for built in finished
        ]
        console.print_json({"engines": rows, "size_mb": round(megabytes, 3), "seconds": round(seconds, 3)})
    else:
        print(f"{len(finished)} engines, {megabytes:.2f} MB, {seconds:.1f} s")


@contextmanager
def build_progress() -> Iterator[Report]:
    """A bar on a terminal, elsewhere one line for each graph."""
    shown = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal) as bar:
        task = bar.add_task("", total=1.0)
        noted: set[str] = set()

        def report(graph: str, phase: str, done: float) -> None:
            bar.update(task, description=f"{graph}: {phase}", completed=done)
            if not shown.is_terminal and graph not in noted:
                noted.add(graph)
                console.note(f"{graph}: building")

        yield report
