"""Every part beside the machine's limits: as figures, and as a table for people."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.table import Table

from agvas_runtime import console
from agvas_runtime.bench.machine import describe_machine
from agvas_runtime.bundle import Bundle
from agvas_runtime.engines.ort import share_threads
from agvas_runtime.manifest import weights_note
from agvas_runtime.roofline.parts import PER_TOKEN, Part, counts, time_parts
from agvas_runtime.roofline.peaks import Peaks, measure_peaks

PEAK_OF = {"int8": "int8", "int8-static": "int8", "int4": "int8"}
"""Precision to the peak that its products with constant matrices are measured against; fp32 for every other one."""

COLUMNS = ("part", "precision", "GFLOP", "MB", "FLOP/byte", "ms", "best", "GFLOP/s", "of peak", "bound", "of roof")
SUMMED = ("flops", "bytes", "ms", "best_ms", "arithmetic_ms", "roof_ms")
"""What a frame has of each of its parts, which run one after another."""


def measure(bundle: Bundle, *, threads: int | None = None, runs: int = 50) -> dict[str, Any]:
    """Measure the machine and every graph of a bundle, and return the report.

    Args:
        threads: of ONNX Runtime, and of reading memory; None is one for each core.
        runs: of every graph.

    Raises:
        BundleError: the bundle carries no counts.
        EngineError: a graph cannot be loaded or run.
    """
    counts(bundle)  # refused before anything is measured
    machine = describe_machine()  # its load average is that of before the measurement
    share_threads(threads)
    used = threads or machine["cores_usable"] or 1
    peaks = measure_peaks(used)
    parts = time_parts(bundle, threads, runs)
    peaks = peaks.best(measure_peaks(used))  # something else may have run beside the first
    source = bundle.manifest.source
    return {
        "schema": 1,
        "bundle": bundle.manifest.name,
        "weights": weights_note(source.random_weights, source.plant),
        "machine": machine,
        "threads": used,
        "runs": runs,
        "peaks": {
            "fp32_flops_per_s": peaks.fp32,
            "int8_flops_per_s": peaks.int8,
            "memory_bytes_per_s": peaks.memory,
        },
        "parts": [figures(part, peaks) for part in parts],
        "frame": total([figures(part, peaks) for part in parts if part.name != PER_TOKEN]),
    }


def figures(part: Part, peaks: Peaks) -> dict[str, Any]:
    """A part's own figures, the time that the machine's limits allow it, and the shares reached of them.

    Speed and shares are of the shortest run, as the peaks are: whatever else runs takes from neither.
    """
    peak = {"fp32": peaks.fp32, "int8": peaks.int8}[PEAK_OF.get(part.precision, "fp32")]
    moved = part.weight_bytes + part.tensor_bytes
    arithmetic_ms = 1e3 * (part.matrix_flops / peak + (part.flops - part.matrix_flops) / peaks.fp32)
    memory_ms = 1e3 * moved / peaks.memory
    return {
        **asdict(part),
        "per": "token" if part.name == PER_TOKEN else "frame",
        "bytes": moved,
        "flops_per_byte": part.flops / moved,
        "bound": "arithmetic" if arithmetic_ms >= memory_ms else "memory",
        "memory_ms": memory_ms,
        **_shares(part.flops, part.best_ms, arithmetic_ms, max(arithmetic_ms, memory_ms)),
    }


def total(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of a frame from those of its parts, one after another."""
    sums = {key: sum(part[key] for part in parts) for key in SUMMED}
    return {
        **{key: sums[key] for key in ("flops", "bytes", "ms", "best_ms")},
        "flops_per_byte": sums["flops"] / sums["bytes"],
        **_shares(sums["flops"], sums["best_ms"], sums["arithmetic_ms"], sums["roof_ms"]),
    }


def _shares(flops: int, best_ms: float, arithmetic_ms: float, roof_ms: float) -> dict[str, float]:
    return {
        "flops_per_s": 1e3 * flops / best_ms,
        "arithmetic_ms": arithmetic_ms,
        "roof_ms": roof_ms,
        "peak_share": arithmetic_ms / best_ms,
        "roof_share": roof_ms / best_ms,
    }


def print_report(report: dict[str, Any]) -> None:
    """Print the report for people."""
    output, machine, peaks, frame = console.output(), report["machine"], report["peaks"], report["frame"]
    table = Table(box=None, header_style="bold")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("part", "precision", "bound") else "right")
    for part in report["parts"]:
        if part["per"] == "frame":
            table.add_row(part["name"], part["precision"], *_cells(part, part["bound"]))
    table.add_row("a frame", "", *_cells(frame, ""), style="bold")
    for part in report["parts"]:
        if part["per"] == "token":
            table.add_row(f"{part['name']}, a token", part["precision"], *_cells(part, part["bound"]))
    output.print(table)
    lines = [
        "",
        f"measured peak: {peaks['fp32_flops_per_s'] / 1e9:.0f} GFLOP/s in float32, "
        f"{peaks['int8_flops_per_s'] / 1e9:.0f} in 8 bits, memory {peaks['memory_bytes_per_s'] / 1e9:.0f} GB/s",
        f"a frame: {frame['ms']:,.2f} ms in its graphs, {frame['best_ms']:,.2f} ms at best; "
        f"{frame['arithmetic_ms']:,.2f} ms at the peak, {frame['roof_ms']:,.2f} ms with memory counted too",
        f"{machine['cpu']}, threads: {report['threads']}, load {machine['load_average_1min']} before; "
        f"median and best of {report['runs']} runs",
    ]
    if machine["load_average_1min"] > report["threads"] / 2:
        lines.append("the machine was not idle: what else ran is in the medians, and may be in the peaks")
    if report["weights"]:
        lines.append(report["weights"])
    output.print("\n".join(lines), highlight=False, markup=False)


def _cells(row: dict[str, Any], bound: str) -> tuple[str, ...]:
    return (
        f"{row['flops'] / 1e9:,.4f}",
        f"{row['bytes'] / 1e6:,.2f}",
        f"{row['flops_per_byte']:.1f}",
        f"{row['ms']:,.2f}",
        f"{row['best_ms']:,.2f}",
        f"{row['flops_per_s'] / 1e9:,.1f}",
        f"{row['peak_share']:.0%}",
        bound,
        f"{row['roof_share']:.0%}",
    )
