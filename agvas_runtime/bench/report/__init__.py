"""Reports of agvas-bench for people: one page, plots, one file of data. Knows nothing of how they were measured."""

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from agvas_runtime import __version__, console
from agvas_runtime.bench.report.beside_plots import BESIDE_PLOTS
from agvas_runtime.bench.report.engine_page import engine_section
from agvas_runtime.bench.report.engine_plots import ENGINE_PLOTS
from agvas_runtime.bench.report.html import page
from agvas_runtime.bench.report.schema import SCHEMA
from agvas_runtime.bench.report.serve_page import serve_section
from agvas_runtime.bench.report.serve_plots import SERVE_PLOTS
from agvas_runtime.bench.report.style import Plot, check_matplotlib
from agvas_runtime.bench.report.text import count, date, machine_line
from agvas_runtime.errors import InputError
from agvas_runtime.files import check_folder, make_folder, write_all

PAGE, DATA = "report.html", "report.json"
PLOT_NAME = re.compile(r"(engine|serve)-\d+-[a-z-]+\.png")
HEAD = {"schema": SCHEMA, "kind": "report"}
Report = dict[str, Any]
PLOTS: dict[str, dict[str, Callable[[Report], Plot | None]]] = {
    "engine": {**ENGINE_PLOTS, **BESIDE_PLOTS},
    "serve": SERVE_PLOTS,
}
SECTIONS: dict[str, Callable[[Report, Mapping[str, Plot | None]], str]] = {
    "engine": engine_section,
    "serve": serve_section,
}


def check_can_report(folder: Path) -> None:
    """Look before a long measurement whether `write_report` can write here.

    Raises:
        InputError: the folder holds other things than an earlier report, is none, or cannot be written into.
        EngineError: Matplotlib is not installed, or cannot be imported.
    """
    check_matplotlib()
    if folder.is_file():
        raise InputError(f"{folder}: found a file, expected a folder for the report")
    check_folder(folder)
    if not folder.exists():
        return
    if any(folder.iterdir()) and not _is_ours(folder / DATA):
        raise InputError(f"{folder}: holds other files but no earlier report ({DATA}); name another folder")


def write_report(reports: list[Report], folder: Path) -> list[Path]:
    """Write report.html, report.json and the plots; what an earlier report left there goes. Returns the files written.

    Args:
        reports: of schema 3, at least one; shown in this order.
        folder: made where it is missing. The page shows everything by itself; the plots lie beside it for other uses.

    Raises:
        InputError: the folder cannot be made, or holds other things than an earlier report.
        EngineError: a file cannot be written, and the earlier report is as it was; Matplotlib is not installed.
    """
    check_can_report(folder)
    reports = json.loads(json.dumps(console.finite(reports)))  # as they are in a file
    names = _names(reports)
    tasks = [(place, name) for place, report in enumerate(reports) for name in PLOTS[report["kind"]]]
    drawn: list[dict[str, Plot | None]] = [{} for _ in reports]
    for place, name in console.progress(tasks, "plots", len(tasks)):
        report = reports[place]
        drawn[place][name] = PLOTS[report["kind"]][name](report)
    make_folder(folder)
    files = {DATA: (json.dumps({**HEAD, "reports": reports}) + "\n").encode()}
    for name, plots in zip(names, drawn, strict=True):
        files.update({f"{name}-{plot}.png": found.png for plot, found in plots.items() if found})
    files[PAGE] = _page(reports, names, drawn).encode("utf-8", "backslashreplace")
    write_all({folder / name: content for name, content in files.items()})
    for old in folder.iterdir():
        if PLOT_NAME.fullmatch(old.name) and old.name not in files:
            old.unlink(missing_ok=True)
    return [folder / name for name in sorted(files, key=lambda name: (name != PAGE, name != DATA))]


def _is_ours(data: Path) -> bool:
    """Whether a file is an earlier report's data."""
    begin = json.dumps(HEAD)[:-1].encode()
    if not data.is_file():
        return False
    with data.open("rb") as file:
        return file.read(len(begin)) == begin


def _names(reports: list[Report]) -> list[str]:
    """`engine-1`, `serve-1`, `engine-2`: every report's kind, and which of its kind it is."""
    kinds = [report["kind"] for report in reports]
    return [f"{kind}-{kinds[: place + 1].count(kind)}" for place, kind in enumerate(kinds)]


def _page(reports: list[Report], names: list[str], drawn: list[dict[str, Plot | None]]) -> str:
    sections = {
        name: (_title(report, name), SECTIONS[report["kind"]](report, plots))
        for name, report, plots in zip(names, reports, drawn, strict=True)
    }
    machines = dict.fromkeys(machine_line(report["machine"]) for report in reports)
    facts = {
        "measured": ", ".join(dict.fromkeys(date(report["began"]) for report in reports)),
        "on": "; ".join(machines),
        "page made": f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M:%S} UTC, agvas {__version__}",
        "raw samples": f"{DATA}, beside this page",
    }
    return page("agvas-bench report", facts, sections)


def _title(report: Report, name: str) -> str:
    kind, _, number = name.partition("-")
    if kind == "engine":
        return f"Engine {number}: {count(len(report['contenders']), 'contender')}"
    return f"Serving {number}: {report['target']['model']} at {count(len(report['steps']), 'load')}"
