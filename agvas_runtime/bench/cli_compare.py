"""agvas-bench compare: the command. What is compared is in compare/."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from agvas_runtime import console
from agvas_runtime.bench.compare.beside import beside
from agvas_runtime.bench.compare.by_turns import changes_by_turns, pairs_of
from agvas_runtime.bench.compare.change import (
    Change,
    Verdict,
    carried_verdict,
    load_changes,
    more_missed,
    stage_changes,
    together,
)
from agvas_runtime.bench.compare.circumstances import differences
from agvas_runtime.bench.compare.series import fastest, misses_of, quiet_turns, series_of
from agvas_runtime.bench.report.schema import read_report
from agvas_runtime.errors import InputError
from agvas_runtime.files import check_place, write_whole

STYLES = {Verdict.SLOWER: "red", Verdict.FASTER: "green", Verdict.UNCLEAR: "yellow", Verdict.SAME: ""}


def compare(
    old: Annotated[Path, typer.Argument(help="Report (JSON) of `agvas-bench engine` or `serve`.")],
    new: Annotated[Path, typer.Argument(help="A later one of the same.")],
    fail_on_slower: Annotated[
        bool, typer.Option("--fail-on-slower", help="Exit with 1 if anything is slower, or unclear.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the comparison (JSON) to this file.")] = None,
) -> None:
    """Say what changed beyond noise from one recorded run to another.

    Contenders of the same name are compared, stage by stage. Runs that took turns (`agvas-bench engine --by-turns`) are
    so bout by bout, and a shared machine's moods do not count. Of others the fastest fiftieth and tenth of the frames
    are taken, which moods change least; changes below a tenth are not told. Frames during other work are left out;
    where too few are left, a figure is unclear, and so is what changed in all graphs alike. Of servers the same
    cameras' loads are compared, roughly. What there is one value of stands side by side, medians and tails among it.

    \b
    Examples:
      agvas-bench engine --frames 300 --out monday.json
      agvas-bench compare monday.json tuesday.json
      agvas-bench engine --contender b=ort --by-turns lock --out old.json &
      agvas-bench engine --contender b=ort:mine --by-turns lock --out new.json
      agvas-bench compare benchmarks/main.json now.json --fail-on-slower
    """
    if out is not None:
        check_place(out)
    report = compared(read_report(old), read_report(new), str(old), str(new))
    if out is not None:
        write_whole(out, (json.dumps(console.finite(report), indent=2) + "\n").encode())
        console.note(f"written: {out}")
    if as_json:
        console.print_json(report)
    else:
        _print(report)
    if fail_on_slower and (report["slower"] or report["unclear"]):
        raise typer.Exit(1)


def compared(old: dict[str, Any], new: dict[str, Any], old_name: str, new_name: str) -> dict[str, Any]:
    """The comparison of two reports. Raises InputError where they have nothing in common.

    `unclear` are figures that cannot be told, and contenders or loads that the new report does not have. Of two ramps
    what they carry is judged instead of steps that only the old one took.
    """
    if old["kind"] != new["kind"]:
        raise InputError(
            f"{new_name}: found a report of `{new['kind']}`, expected one of `{old['kind']}` as {old_name}"
        )
    fastest_ms = fastest(old, new)
    before, after = series_of(old, fastest_ms), series_of(new, fastest_ms)
    pairs = pairs_of(old, new)
    if pairs:
        found = changes_by_turns(old, new, pairs)
    else:
        found = (stage_changes if old["kind"] == "engine" else load_changes)(before, after)
    if not before.keys() & after.keys():
        expected = "expected the same names, or cameras of the same rates and deadlines"
        raise InputError(f"{new_name}: found no contender or load of {old_name}, {expected}")
    ramps = carried_verdict(old, new)
    gone = [name for name in dict.fromkeys(of for of, _ in before) if all(of != name for of, _ in after)]
    if ramps is not None:  # which steps a ramp takes depends on what it finds
        gone = []

    def those(verdict: Verdict) -> list[str]:
        told = [f"{each.of}: {each.what}" for each in found if each.verdict is verdict]
        return told + (["ramp: cameras carried"] if ramps is verdict else [])

    return {
        "schema": 1,
        "kind": old["kind"],
        "old": old_name,
        "new": new_name,
        "pairs": len(pairs),
        "different": differences(old, new),
        "left_out": {
            which: 0.0 if pairs else _left_out(each, fastest_ms) for which, each in (("old", old), ("new", new))
        },
        "slower": those(Verdict.SLOWER) + [f"{name}: misses" for name in more_missed(misses_of(old), misses_of(new))],
        "faster": those(Verdict.FASTER),
        "unclear": those(Verdict.UNCLEAR)
        + [f"{name}: all graphs, x{times:.2f}" for name, times in together(found).items()]
        + [f"{name}: not in {new_name}" for name in gone],
        "changes": [{**asdict(each), "verdict": each.verdict.value} for each in found],
        "beside": [each._asdict() for each in beside(old, new)],
    }


def _left_out(report: dict[str, Any], fastest_ms: float | None) -> float:
    """The share of a report's turns in which the program did not have the whole machine."""
    return float(1 - quiet_turns(report, fastest_ms).mean()) if report["kind"] == "engine" else 0.0


def _print(report: dict[str, Any]) -> None:
    output = console.output()
    for line in report["different"]:
        output.print(f"different: {line}", highlight=False, markup=False)
    for which in ("old", "new"):
        if share := report["left_out"][which]:
            console.note(f"{report[which]}: {share:.0%} of the turns are left out: the machine did other work")
    for name in dict.fromkeys(each["of"] for each in report["changes"]):
        what = (
            "medians, bout by bout" if report["pairs"] else "fastest frames" if report["kind"] == "engine" else "median"
        )
        output.print(_table(f"{name}: {what}, ms", [each for each in report["changes"] if each["of"] == name]))
    if report["beside"]:
        output.print(_beside_table(report["beside"]))
    for word in ("slower", "faster", "unclear"):
        output.print(f"{word}: {', '.join(report[word]) or 'nothing'}", highlight=False, markup=False)


def _table(title: str, found: list[dict[str, Any]]) -> Table:
    table = Table(title=Text(title), title_justify="left")
    for head in ("stage", "old", "new", "new : old", "noise explains", ""):
        table.add_column(head, justify="left" if head in ("stage", "") else "right")
    for each in found:
        change, verdict = Change(**{**each, "verdict": Verdict(each["verdict"])}), Verdict(each["verdict"])
        explained = f"{change.together / change.allowed:.2f} to {change.together * change.allowed:.2f}"
        cells = (f"{change.old_ms:.3f}", f"{change.new_ms:.3f}", f"{change.ratio:.3f}", explained, verdict.value)
        table.add_row(change.what, *cells, style=STYLES[verdict])
    return table


def _beside_table(found: list[dict[str, Any]]) -> Table:
    table = Table(title="one value each, of which no noise is known", title_justify="left")
    for head in ("", "figure", "old", "new"):
        table.add_column(head, justify="right" if head in ("old", "new") else "left")
    for each in found:
        values = ("n/a" if value is None else f"{value:,.4g}" for value in (each["old"], each["new"]))
        table.add_row(Text(each["of"]), each["what"], *values)
    return table
