"""The report of `agvas-bench engine` for people, readable at 100 columns. Null is what was not measured."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from agvas_runtime import console
from agvas_runtime.bench.figures import PERCENTILES
from agvas_runtime.bench.groups import LANGUAGE
from agvas_runtime.bench.latency import WHOLE_CALL

FRAMES_OF_P999 = 1000
MIB = 2**20


def print_report(report: dict[str, Any]) -> None:
    """Stages of every contender, then the contenders beside each other, the trie's cost, the machine."""
    output, machine, contenders = console.output(), report["machine"], report["contenders"]
    for each in contenders:
        output.print(_stages(each))
        for line in _lines(each):
            output.print(line, highlight=False, markup=False)
        output.print()
    if report["frames"] < FRAMES_OF_P999:
        note = f"p99.9 of {report['frames']} frames is nearly their maximum; {FRAMES_OF_P999:,} frames tell more."
        output.print(note, highlight=False, markup=False)
    output.print(_groups(report))
    if any(found["batch"] > 1 for each in contenders for found in each["throughput"]):
        output.print(_throughput(contenders))
    for line in _trie(report["trie"]):
        output.print(line, highlight=False, markup=False)
    packages = ", ".join(f"{name} {found}" for name, found in machine["packages"].items())
    cores = f"{machine['cores_usable']} cores, load {machine['load_average_1min']} before"
    output.print(f"{machine['cpu']}, {cores}; python {machine['python']}, {packages}", highlight=False, markup=False)


def _stages(each: dict[str, Any]) -> Table:
    table = _table(f"{each['name']}: ms per frame", ["stage"], list(PERCENTILES))
    for stage, values in each["stages_ms"].items():
        cells = (f"{values[key]:.2f}" for key in PERCENTILES)
        table.add_row(Text(stage), *cells, style="bold" if stage == WHOLE_CALL else "")
    return table


def _lines(each: dict[str, Any]) -> Iterator[str]:
    """What there is to say of a contender beside its stages."""
    answers = ", ".join(f"{count} {outcome}" for outcome, count in each["outcomes"].items())
    yield f"{each['frames_per_s']:.1f} frames/s; answers: {answers}"
    if each["alone"]:
        yield from _alone(each["alone"])
    if quality := each["quality"]:
        iou = f"IoU {quality['iou_mean']:.3f} mean, {quality['iou_min']:.3f} least"
        same = f"{quality['same_verdicts']} of {quality['frames']} verdicts the same"
        yield f"masks against {quality['against']}: {iou}; {same}"
    if data := each["data"]:
        names = {"ap": "AP", "f1_max": "F1-Max", "iou_ano": "IoU_ano", "iou_nor": "IoU_nor"}
        figures = ", ".join(f"{head} {_number(data[name])}" for name, head in names.items())
        yield f"{data['dataset']}, {data['images']} images: {figures} (percent)"
    if each["weights"]:
        yield each["weights"]


def _alone(alone: dict[str, Any]) -> Iterator[str]:
    """Start, memory and energy in a process of its own."""
    built = "" if alone["build_ms"] is None else f", its engines built in {alone['build_ms'] / 1e3:.1f} s"
    loaded, peak = alone["rss_loaded_bytes"] / MIB, alone["rss_peak_bytes"] / MIB
    start = f"load {alone['load_ms']:.0f} ms, first frame {alone['first_call_ms']:.1f} ms{built}"
    yield f"alone: {start}; memory {loaded:.0f} MiB loaded, {peak:.0f} MiB peak"
    if device := alone["device"]:
        before, loaded, peak = (device[f"{when}_bytes"] / MIB for when in ("before", "loaded", "peak"))
        whole = "" if device["counts"] == "process" else f" of everything on it, {before:.0f} MiB before"
        yield f"{device['name']}: {loaded:.0f} MiB loaded, {peak:.0f} MiB peak{whole}"
    if energy := alone["energy"]:
        yield f"{energy['joules_per_frame']:.3g} J a frame, {energy['watts_mean']:.0f} W ({energy['source']})"


def _groups(report: dict[str, Any]) -> Table:
    base = report["base"]
    title = f"times as long as {base} took for the same frames: median [95 % interval]"
    table = _table(title, ["frames", "contender"], ["call p50 ms", "call, times", f"{LANGUAGE}, times"])
    for group in report["contenders"][0]["groups"]:
        for number, each in enumerate(report["contenders"]):
            found = each["groups"][group]
            p50, times = found["stages_ms"][WHOLE_CALL]["p50"], found["times_of_base"]
            cells = (f"{p50:.2f}", _times(times[WHOLE_CALL]), _times(times[LANGUAGE]))
            table.add_row("" if number else f"{group} ({found['frames']})", Text(each["name"]), *cells)
    return table


def _times(found: dict[str, float | None]) -> str:
    """As in "x1.23 [1.20, 1.26]"; without an interval where there is none, or the base itself is meant."""
    if found["median"] is None:
        return ""
    low, high = found["low"], found["high"]
    interval = f" [{low:.2f}, {high:.2f}]" if low != high else ""
    return f"x{found['median']:.2f}{interval}"


def _throughput(contenders: Sequence[dict[str, Any]]) -> Table:
    sizes = list(dict.fromkeys(found["batch"] for each in contenders for found in each["throughput"]))
    table = _table("frames/s by batch size", ["contender"], [str(size) for size in sizes])
    for each in contenders:
        speed = {found["batch"]: f"{found['frames_per_s']:.1f}" for found in each["throughput"]}
        table.add_row(Text(each["name"]), *(speed.get(size, "") for size in sizes))
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


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1f}"


def _table(title: str, names: Sequence[str], figures: Sequence[str]) -> Table:
    table = Table(
        title=Text(title, "table.title"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1)
    )
    for name in names:
        table.add_column(name, overflow="fold")
    for name in figures:
        table.add_column(name, justify="right", no_wrap=True)
    return table
