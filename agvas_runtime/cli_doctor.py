"""`agvas-runtime doctor`: what it found, as a table or as one JSON document."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from agvas_runtime import console
from agvas_runtime.server.config_sources import load

if TYPE_CHECKING:
    from agvas_runtime.server.checks import Check

STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def doctor(
    config: Annotated[
        Path | None, typer.Option(help="YAML file of a server's settings; that of AGVAS_CONFIG where there is one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> int:
    r"""Check whether this machine can serve as configured. Exits with 1 if there is a problem.

    The configuration is that of `serve` with the same file and environment. Nothing is started and nothing is changed.

    \b
    Examples:
      agvas-runtime doctor
      agvas-runtime doctor --config agvas.yaml
      agvas-runtime doctor --json
    """
    from agvas_runtime.doctor import examine

    checks = examine(lambda: load(file=config).config)
    counts = {state: sum(check.state == state for check in checks) for state in STYLES}
    if as_json:
        rows = [
            {"check": check.name, "state": check.state, "found": check.found, "advice": advice(check)}
            for check in checks
        ]
        console.print_json({"checks": rows, "problems": counts["problem"], "warnings": counts["warning"]})
    else:
        print_checks(checks)
        print(f"{counts['problem']} problems, {counts['warning']} warnings, {counts['ok']} ok")
    return 1 if counts["problem"] else 0


def print_checks(checks: Sequence[Check]) -> None:
    """The findings for people."""
    table = Table(box=None, header_style="bold")
    table.add_column("check", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("found", overflow="fold")
    table.add_column("what to do", overflow="fold")
    for check in checks:
        found = Text(console.one_line(check.found))
        table.add_row(check.name, Text(check.state, STYLES[check.state]), found, Text(advice(check)))
    console.output().print(table)


def advice(check: Check) -> str:
    """What to do, where there is something to do."""
    return "" if check.state == "ok" else check.advice
