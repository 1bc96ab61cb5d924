"""The report of `agvas-bench engine` for people."""

from typing import Any

from rich.table import Table

from agvas_runtime import console
from agvas_runtime.bench.groups import LANGUAGE
from agvas_runtime.bench.latency import WHOLE_CALL


def print_report(report: dict[str, Any]) -> None:
    """Stages of every contender, then the contenders beside each other, the trie's cost, the machine."""
    output, machine = console.output(), report["machine"]
    for each in report["contenders"]:
        output.print(_stages(each))
        output.print(_summary(each), highlight=False, markup=False)
    output.print(_groups(report))
    for line in _trie(report["trie"]):
        output.print(line, highlight=False, markup=False)
    packages = ", ".join(f"{name} {found}" for name, found in machine["packages"].items())
    cores = f"{machine['cores_usable']} cores, load {machine['load_average_1min']} before"
    output.print(f"{machine['cpu']}, {cores}; python {machine['python']}, {packages}", highlight=False, markup=False)


def _stages(each: dict[str, Any]) -> Table:
    table = _table(f"{each['name']}: ms per frame", ["stage"], ["p50", "p90", "p99", "mean"])
    for stage, values in each["stages_ms"].items():
        cells = (f"{values[key]:.2f}" for key in ("p50", "p90", "p99", "mean"))
        table.add_row(stage, *cells, style="bold" if stage == WHOLE_CALL else "")
    return table


def _summary(each: dict[str, Any]) -> str:
    answers = ", ".join(f"{count} {outcome}" for outcome, count in each["outcomes"].items())
    text = (
        f"{each['frames_per_s']:.1f} frames/s; load {each['load_ms']:.0f} ms, first call {each['first_call_ms']:.1f} ms"
    )
    if each["memory"]:
        mb = {key: value / 2**20 for key, value in each["memory"].items()}
        text += f"; memory {mb['rss_loaded_bytes']:.0f} MiB loaded, {mb['rss_peak_bytes']:.0f} MiB peak"
    note = f"\n{each['weights']}" if each["weights"] else ""
    return f"{text}; answers: {answers}{note}"


def _groups(report: dict[str, Any]) -> Table:
    title = f"ms by kind of frame; times: as long as {report['base']} took for the same frame (median)"
    table = _table(title, ["frames", "contender"], ["call p50", "times", "llm p50", "text p50", "times, both"])
    for group in report["contenders"][0]["groups"]:
        for number, each in enumerate(report["contenders"]):
            found = each["groups"][group]
            times, p50 = found["times_of_base"], {name: value["p50"] for name, value in found["stages_ms"].items()}
            cells = (
                f"{p50[WHOLE_CALL]:.2f}",
                f"{times[WHOLE_CALL]:.2f}",
                f"{p50.get('llm', 0.0):.2f}",
                f"{p50['text']:.2f}" if "text" in p50 else "",
                f"{times[LANGUAGE]:.2f}",
            )
            table.add_row("" if number else f"{group} ({found['frames']})", each["name"], *cells)
    return table


def _trie(trie: dict[str, Any] | None) -> list[str]:
    """A line for hits and one for misses."""
    lines = []
    for group, found in trie["groups"].items() if trie else ():
        over = [
            f"{each['extra_ms']:+.2f} ms over {name} ({'' if each['within_share'] else 'not '}within the share)"
            for name, each in found["over"].items()
        ]
        share = f"the trie's rows take {found['share_ms']:.2f} ms of the pass"
        lines.append(f"{group} ({found['frames']}): {share}; llm and text take {', '.join(over)}")
    return lines


def _table(title: str, names: list[str], figures: list[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in names:
        table.add_column(name)
    for name in figures:
        table.add_column(name, justify="right")
    return table
