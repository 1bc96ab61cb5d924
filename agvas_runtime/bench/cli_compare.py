"""agvas-bench compare: the command. What is compared is in compare/."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from agvas_runtime import console
from agvas_runtime.bench.compare.change import Change, Verdict, changes
from agvas_runtime.bench.compare.circumstances import differences
from agvas_runtime.bench.compare.series import quiet_turns, series_of
from agvas_runtime.bench.report.schema import read_report
from agvas_runtime.errors import InputError
from agvas_runtime.files import write_whole

STYLES = {Verdict.SLOWER: "red", Verdict.FASTER: "green", Verdict.UNCLEAR: "yellow", Verdict.SAME: ""}


def compare(
    old: Annotated[Path, typer.Argument(help="Report (JSON) of `agvas-bench engine` or `serve`.")],
    new: Annotated[Path, typer.Argument(help="A later one of the same.")],
    fail_on_slower: Annotated[
        bool, typer.Option("--fail-on-slower", help="Exit with 1 if anything is slower.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the comparison (JSON) to this file.")] = None,
) -> None:
    """Say what changed beyond noise from one recorded run to another.

    Stages of contenders of the same name are compared, of servers the loads with as many cameras. Frames while the
    machine did much other work are left out; where too few are left, a figure is unclear. Changes of less than about
    an eighth are not told from the noise between two runs.

    \b
    Examples:
      agvas-bench engine --frames 300 --out monday.json
      agvas-bench compare monday.json tuesday.json
      agvas-bench compare benchmarks/main.json now.json --fail-on-slower
    """
    report = compared(read_report(old), read_report(new), str(old), str(new))
    if out is not None:
        write_whole(out, (json.dumps(console.finite(report), indent=2) + "\n").encode())
        console.note(f"written: {out}")
    if as_json:
        console.print_json(report)
    else:
        _print(report)
    if fail_on_slower and report["slower"]:
        raise typer.Exit(1)


def compared(old: dict[str, Any], new: dict[str, Any], old_name: str, new_name: str) -> dict[str, Any]:
    """The comparison of two reports. Raises InputError where they have nothing in common."""
    if old["kind"] != new["kind"]:
        raise InputError(
            f"{new_name}: found a report of `{new['kind']}`, expected one of `{old['kind']}` as {old_name}"
        )
    found = changes(series_of(old), series_of(new))
    if not found:
        raise InputError(f"{new_name}: found no contender or load of {old_name}, expected the same names")
    return {
        "schema": 1,
        "old": old_name,
        "new": new_name,
        "different": differences(old, new),
        "left_out": {"old": _left_out(old), "new": _left_out(new)},
        "slower": [f"{each.of}: {each.what}" for each in found if each.verdict is Verdict.SLOWER],
        "faster": [f"{each.of}: {each.what}" for each in found if each.verdict is Verdict.FASTER],
        "changes": [{**asdict(each), "verdict": each.verdict.value} for each in found],
    }


def _left_out(report: dict[str, Any]) -> float:
    """The share of a report's turns in which the machine did other work."""
    quiet = quiet_turns(report) if report["kind"] == "engine" else None
    return 0.0 if quiet is None or not len(quiet) else float(1 - quiet.mean())


def _print(report: dict[str, Any]) -> None:
    output = console.output()
    for line in report["different"]:
        output.print(f"different: {line}", highlight=False, markup=False)
    for which in ("old", "new"):
        if share := report["left_out"][which]:
            console.note(f"{report[which]}: {share:.0%} of the turns are left out: the machine did other work")
    names = dict.fromkeys(each["of"] for each in report["changes"])
    for name in names:
        output.print(_table(name, [each for each in report["changes"] if each["of"] == name]))
    for word in ("slower", "faster"):
        output.print(f"{word}: {', '.join(report[word]) or 'nothing'}", highlight=False, markup=False)


def _table(name: str, found: list[dict[str, Any]]) -> Table:
    table = Table(title=f"{name}: ms, median", title_justify="left")
    for head in ("stage", "old", "new", "new : old", "interval", ""):
        table.add_column(head, justify="left" if head in ("stage", "") else "right")
    for each in found:
        change, verdict = Change(**{**each, "verdict": Verdict(each["verdict"])}), Verdict(each["verdict"])
        interval = "" if verdict is Verdict.UNCLEAR else f"{change.low:.2f} to {change.high:.2f}"
        cells = (f"{change.old_ms:.3f}", f"{change.new_ms:.3f}", f"{change.ratio:.3f}", interval, verdict.value)
        table.add_row(change.what, *cells, style=STYLES[verdict])
    return table
