"""Reading a report of agvas-bench. What it must hold to be shown is checked; more than is named may stand in it."""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agvas_runtime.bench.report.schema_engine import EngineReport
from agvas_runtime.bench.report.schema_serve import ServeReport
from agvas_runtime.bench.report.schema_values import Head
from agvas_runtime.console import one_line
from agvas_runtime.errors import InputError

SCHEMA = 3

KINDS: dict[str, type[Head]] = {"engine": EngineReport, "serve": ServeReport}


def read_report(path: Path) -> dict[str, Any]:
    """A report of `agvas-bench engine` or `serve`, as it stands in the file. Raises InputError naming what is wrong."""
    try:
        report = json.loads(path.read_text("utf-8"), parse_constant=_no_number)
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: no JSON: {one_line(str(error))}") from None
    if not isinstance(report, dict) or "schema" not in report:
        raise InputError(f"{path}: no report: found no 'schema', expected {SCHEMA}")
    if report["schema"] != SCHEMA:
        raise InputError(f"{path}: schema {report['schema']!r}, expected {SCHEMA}")
    kind = report.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise InputError(f"{path}: kind {kind!r}, expected {' or '.join(map(repr, KINDS))}")
    try:
        KINDS[kind].model_validate(report, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the report"
        raise InputError(f"{path}: {where}: {one_line(first['msg'])}") from None
    return report


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")
