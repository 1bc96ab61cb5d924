"""The page's section of a report of `agvas-bench engine`."""

from collections.abc import Mapping
from typing import Any

from agvas_runtime.bench.report.html import (
    FIGURES,
    Cell,
    Number,
    facts_list,
    figure,
    figure_cells,
    foldable,
    heading,
    mebibytes,
    milliseconds,
    paragraph,
    plain,
    table,
)
from agvas_runtime.bench.report.style import Plot
from agvas_runtime.bench.report.text import NOT_KNOWN, count, counts, date, machine_facts, ms, ratio

FEW = 1000
"""With fewer values p99.9 is hardly another figure than the maximum."""
MOMENTS = ("before", "loaded", "peak")
RATIOS = ("call", "llm+text")
Report = dict[str, Any]


def engine_section(report: Report, plots: Mapping[str, Plot | None]) -> str:
    """All of it, what was not measured left out."""
    return "".join(
        (
            facts_list(_facts(report)),
            *(paragraph(f"{each['name']}: {each['weights']}") for each in report["contenders"] if each["weights"]),
            _overview(report),
            heading("Whole call"),
            figure(plots["distributions"]),
            _calls(report),
            figure(plots["drift"]),
            heading("Stages"),
            figure(plots["stages"]),
            figure(plots["waterfall"]),
            *(foldable(f"Stages of {each['name']}", _stages(each)) for each in report["contenders"]),
            _part("Kinds of frames", _trie(report), figure(plots["known-answers"]), _groups(report)),
            _part("Throughput by batch size", figure(plots["throughput"]), _throughput(report)),
            _part("Loading, memory, energy", _loading(report), figure(plots["memory"]), _memory(report)),
            _part("Quality", figure(plots["quality"]), _quality(report), _data(report)),
            heading("What was measured"),
            _models(report),
        )
    )


def _part(title: str, *contents: str) -> str:
    content = "".join(contents)
    return heading(title) + content if content else ""


def _facts(report: Report) -> dict[str, str]:
    images = report["images"] if isinstance(report["images"], str) else ", ".join(report["images"])
    size = report["frame_bytes_mean"]
    frames, warmup, threads = count(report["frames"], "frame"), report["warmup"], report["threads"]
    return {
        "measured": f"{date(report['began'])}, {frames} of each contender after {warmup:,} to warm up{_spread(report)}",
        "frames": f"{images}; {NOT_KNOWN if size is None else f'{size:,.0f}'} bytes on average",
        "threads": "one for each core" if threads is None else str(threads),
        "base": f"{report['base']}, to which all are compared, turn by turn",
        **machine_facts(report["machine"]),
        **_other_work(report),
    }


def _spread(report: Report) -> str:
    return f", over {report['spread_s']:g} s or more" if report["spread_s"] else ""


def _other_work(report: Report) -> dict[str, str]:
    """How busy others kept the machine meanwhile, where that was counted."""
    others_ms = report.get("elsewhere_ms")
    calls_ms = sum(time or 0.0 for each in report["contenders"] for time in each["samples"]["times_ms"]["call"])
    if not others_ms or not calls_ms:
        return {}
    share = max(0.0, sum(time or 0.0 for time in others_ms)) / calls_ms
    return {"others meanwhile": f"took {100 * share:.0f} % of one core's time"}


def _overview(report: Report) -> str:
    rows: list[list[Cell]] = []
    for each in report["contenders"]:
        call, alone, quality, data = each["stages_ms"]["call"], each["alone"], each["quality"], each["data"]
        rows.append([
            each["name"],
            milliseconds(call["p50"]),
            milliseconds(call["p99"]),
            _ratio(each, "all", "call", report["base"]),
            plain(each["frames_per_s"], 1),
            mebibytes(alone and alone["rss_peak_bytes"]),
            mebibytes(alone and alone["device"] and alone["device"]["peak_bytes"]),
            plain(quality and quality["iou_mean"], 4),
            plain(data and data["ap"], 1),
        ])  # fmt: skip
    heads = (
        "contender",
        "p50, ms",
        "p99, ms",
        "times the base",
        "frames/s",
        "memory, MiB",
        "device, MiB",
        "IoU",
        "AP, %",
    )
    return table("The whole call; in brackets the 95 % interval of the median ratio. Memory at its peak.", heads, rows)


def _calls(report: Report) -> str:
    few = " Fewer than 1,000 calls: p99.9 says little." if report["frames"] < FEW else ""
    rows: list[list[Cell]] = [
        [each["name"], plain(each["frames"]), *figure_cells(each["stages_ms"]["call"]), counts(each["outcomes"])]
        for each in report["contenders"]
    ]
    return table(f"The whole call as its caller sees it, ms.{few}", ("contender", "calls", *FIGURES, "answers"), rows)


def _stages(contender: dict[str, Any]) -> str:
    rows: list[list[Cell]] = [[stage, *figure_cells(found)] for stage, found in contender["stages_ms"].items()]
    return table("ms a frame; call is the whole call, total the engine's own sum", ("stage", *FIGURES), rows)


def _groups(report: Report) -> str:
    rows: list[list[Cell]] = []
    for group in dict.fromkeys(group for each in report["contenders"] for group in each["groups"]):
        for each in report["contenders"]:
            if found := each["groups"].get(group):
                call, ratios = (
                    found["stages_ms"]["call"],
                    (_ratio(each, group, what, report["base"]) for what in RATIOS),
                )
                rows.append([group, each["name"], plain(found["frames"]), milliseconds(call["p50"]),
                             milliseconds(call["p99"]), *ratios])  # fmt: skip
    heads = ("kind", "contender", "frames", "call p50, ms", "call p99, ms", "times the base", "llm and text, times")
    caption = (
        "Kinds by the base's answer and by what is known of the frame; ratios turn by turn, median and 95 % interval"
    )
    return table(caption, heads, rows)


def _ratio(contender: dict[str, Any], group: str, what: str, base: str) -> Cell:
    if contender["name"] == base:
        return "base"
    times = contender["groups"].get(group, {}).get("times_of_base", {}).get(what)
    return Number(times["median"], ratio(times)) if times else NOT_KNOWN


def _trie(report: Report) -> str:
    trie = report["trie"]
    if not trie:
        return ""
    lines = []
    for group, found in trie["groups"].items():
        over = ", ".join(
            f"{NOT_KNOWN if cost['extra_ms'] is None else format(cost['extra_ms'], '+.2f')} ms against {name}"
            f" ({'' if cost['within_share'] else 'not '}within the share)"
            for name, cost in found["over"].items()
        )
        share = f"the trie's rows take {ms(found['share_ms'])} ms of the pass of {trie['base']}"
        lines.append(paragraph(f"{group} ({count(found['frames'], 'frame')}): {share}; llm and text take {over}."))
    return "".join(lines)


def _throughput(report: Report) -> str:
    rows: list[list[Cell]] = [
        [each["name"], plain(batch["batch"]), plain(batch["frames_per_s"], 1), milliseconds(batch["ms_per_frame"])]
        for each in report["contenders"]
        for batch in each["throughput"]
    ]
    return table(
        "Frames per second when so many are given at once", ("contender", "batch", "frames/s", "ms a frame"), rows
    )


def _loading(report: Report) -> str:
    rows: list[list[Cell]] = []
    for each in report["contenders"]:
        if alone := each["alone"]:
            energy = alone["energy"] or {}
            times = (milliseconds(alone[name]) for name in ("load_ms", "first_call_ms", "build_ms"))
            joules, watts = energy.get("joules_per_frame"), energy.get("watts_mean")
            rows.append([each["name"], *times, plain(joules, 3), plain(watts, 1), energy.get("source", "")])
    heads = ("contender", "load, ms", "first frame, ms", "build, ms", "J a frame", "mean W", "energy by")
    return table("Each contender in a process of its own", heads, rows)


def _memory(report: Report) -> str:
    rows: list[list[Cell]] = []
    for each in report["contenders"]:
        if alone := each["alone"]:
            device = alone["device"] or {}
            resident = (mebibytes(alone[f"rss_{name}_bytes"]) for name in MOMENTS)
            on_device = (mebibytes(device.get(f"{name}_bytes")) for name in MOMENTS)
            rows.append([each["name"], *resident, device.get("name", ""), *on_device])
    heads = ("contender", *(f"resident {name}" for name in MOMENTS), "device", *(f"device {name}" for name in MOMENTS))
    return table("Memory in MiB: before loading, when loaded, at its peak", heads, rows)


def _quality(report: Report) -> str:
    rows: list[list[Cell]] = [
        [each["name"], found["against"], plain(found["frames"]), plain(found["iou_mean"], 4),
         plain(found["iou_min"], 4), plain(found["same_verdicts"])]
        for each in report["contenders"] if (found := each["quality"])
    ]  # fmt: skip
    heads = ("contender", "against", "frames", "mean IoU", "lowest IoU", "same verdicts")
    return table("How alike the masks and verdicts are to another contender's", heads, rows)


def _data(report: Report) -> str:
    rows: list[list[Cell]] = [
        [each["name"], found["dataset"], plain(found["images"]),
         *(plain(found[name], 1) for name in ("ap", "f1_max", "iou_ano", "iou_nor"))]
        for each in report["contenders"] if (found := each["data"])
    ]  # fmt: skip
    heads = ("contender", "data set", "images", "AP", "F1-Max", "IoU_ano", "IoU_nor")
    return table("How right the masks are: percent, mean over the categories, as agvas-eval has them", heads, rows)


def _models(report: Report) -> str:
    rows: list[list[Cell]] = [
        [
            each["name"],
            each["engine"],
            each["model"],
            each["model_sha256"] or NOT_KNOWN,
            each["mode"],
            each["instruction"],
        ]
        for each in report["contenders"]
    ]
    heads = ("contender", "engine", "model", "SHA-256", "mode", "instruction")
    return table(
        "The hash is of the bundle's manifest, which holds those of its files, or of a checkpoint's files", heads, rows
    )
