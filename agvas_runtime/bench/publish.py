"""Where a measurement's report goes: a file, a page, the terminal. Looked at before the measurement, which is long."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agvas_runtime import console
from agvas_runtime.files import check_place, write_whole


def check_places(out: Path | None, folder: Path | None) -> None:
    """Raise InputError, or EngineError without Matplotlib, where the file or the page could not be written later."""
    if out is not None:
        check_place(out)
    if folder is not None:
        from agvas_runtime.bench.report import check_can_report

        check_can_report(folder)


def publish(
    report: dict[str, Any], show: Callable[[dict[str, Any]], None], as_json: bool, out: Path | None, folder: Path | None
) -> None:
    """Write the file, then the page, then print: who reads stdout may leave before its end, and writing may fail.

    Args:
        report: finite numbers only.
        show: prints it for people.
        as_json: print it as JSON instead.
        out: the file.
        folder: the page's.

    Raises InputError, EngineError.
    """
    try:
        if out is not None:
            write_whole(out, (json.dumps(report) + "\n").encode())
            console.note(f"written: {out}")
        if folder is not None:
            from agvas_runtime.bench.report import write_report

            write_report([report], folder)
            console.note(f"written: {folder}")
    finally:
        if as_json:
            console.print_json(report)
        else:
            show(report)
