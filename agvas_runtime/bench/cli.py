"""agvas-bench: the command line. What is measured is in latency.py and memory.py."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from agvas_runtime import console
from agvas_runtime.bench.frames import bench_frames
from agvas_runtime.bench.latency import WHOLE_CALL, Contender, open_track, race
from agvas_runtime.bench.machine import describe_machine
from agvas_runtime.bench.memory import measure_memory
from agvas_runtime.bench.plot import draw_plot
from agvas_runtime.errors import InputError
from agvas_runtime.files import write_whole
from agvas_runtime.modes import Mode, Request

app = console.make_app("Measure latency, throughput and memory.")


@app.callback()
def _group() -> None:
    """Measure latency, throughput and memory."""


@app.command()
def engine(
    bundle: Annotated[list[Path] | None, typer.Option(help="Bundle [default: the embedded one]; may repeat.")] = None,
    engine: Annotated[
        str,
        typer.Option(help="With commas: ort, ort-cuda, tensorrt (bundles); reference, compiled-decode (checkpoints)."),
    ] = "ort",
    contender: Annotated[
        list[str] | None, typer.Option(help="[NAME=]ENGINE[:PATH] instead of --bundle and --engine; may repeat.")
    ] = None,
    mode: Annotated[Mode, typer.Option(help="What the model is asked for; ort has direct only.")] = Mode.DIRECT,
    instruction: Annotated[str | None, typer.Option(help="Your own instruction, instead of the mode's.")] = None,
    class_name: Annotated[str | None, typer.Option(help="What to look for, in the mode's own instruction.")] = None,
    normal_look: Annotated[
        str | None, typer.Option(help="Sentence on the object's normal look, for describe-plus.")
    ] = None,
    image: Annotated[list[Path] | None, typer.Option(help="Image or folder [default: generated]; may repeat.")] = None,
    frames: Annotated[int, typer.Option(min=1, help="Measured frames of each contender.")] = 200,
    warmup: Annotated[int, typer.Option(min=0, help="Frames before them that are not counted.")] = 20,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads [default: one for each core].")] = None,
    memory: Annotated[bool, typer.Option(help="Measure memory too, in a process for each contender.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON instead of a table.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the report (JSON) to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write bars per stage to this PNG file.")] = None,
) -> None:
    """Time the stages of one frame after another: p50, p90, p99, frames per second, memory.

    Several contenders take turns frame by frame. The frames are encoded images, so decoding is included; `call` is the
    whole call as its caller sees it.

    \b
    Examples:
      agvas-bench engine
      agvas-bench engine --bundle bundles/fp32 --bundle bundles/int8 --frames 500 --out engines.json --plot engines.png
      agvas-bench engine --contender ort --contender slow=reference:checkpoints/tiny --threads 1 --json
      agvas-bench engine --engine reference,compiled-decode --mode describe
    """
    request = Request(mode, instruction, class_name, normal_look)
    contenders = _contenders(bundle, engine, contender)
    report = bench_engines(contenders, image or [], frames, warmup, threads, memory, request)
    if out is not None:
        write_whole(out, (json.dumps(console.finite(report), indent=2) + "\n").encode())
        console.note(f"written: {out}")
    if plot is not None:
        write_whole(plot, draw_plot(report))
        console.note(f"written: {plot}")
    if as_json:
        console.print_json(report)
    else:
        _print(report)


def bench_engines(
    contenders: list[Contender],
    images: list[Path],
    frames: int,
    warmup: int,
    threads: int | None,
    memory: bool = True,
    request: Request = Request(),
) -> dict[str, Any]:
    """Measure the contenders side by side and return the report. Raises InputError, EngineError."""
    request.check()
    data = bench_frames(images)
    machine = describe_machine()  # its load average is that of before the measurement
    tracks = [open_track(contender, threads, request) for contender in contenders]
    race(tracks, data, warmup, console.progress(range(frames), "frames", frames))
    results = [track.report() for track in tracks]
    tracks.clear()
    for result, contender in zip(results, contenders, strict=True):
        result["memory"] = measure_memory(contender, data, threads, request) if memory else None
    return {
        "schema": 1,
        "machine": machine,
        "frames": frames,
        "warmup": warmup,
        "threads": threads,
        "images": [str(path) for path in images] or "generated",
        "frame_bytes_mean": sum(map(len, data)) / len(data),
        "contenders": results,
    }


def _contenders(bundles: list[Path] | None, engines: str, named: list[str] | None) -> list[Contender]:
    if named:
        if bundles or engines != "ort":
            raise InputError("can't use --contender beside --bundle or --engine; choose one way")
        contenders = [Contender.parse(text) for text in named]
    else:
        names = [name.strip() for name in engines.split(",") if name.strip()]
        paths: list[Path | None] = list(bundles) if bundles else [None]
        contenders = [Contender.of(name, path) for path in paths for name in names]
    if not contenders:
        raise InputError("--engine names no engine")
    seen = [contender.name for contender in contenders]
    if twice := [name for name in seen if seen.count(name) > 1]:
        raise InputError(f"two contenders are called {twice[0]!r}: name them apart, --contender NAME={twice[0]}")
    return contenders


def _print(report: dict[str, Any]) -> None:
    output, machine = console.output(), report["machine"]
    for each in report["contenders"]:
        table = Table(title=f"{each['name']}: ms per frame", title_justify="left")
        table.add_column("stage")
        for head in ("p50", "p90", "p99", "mean"):
            table.add_column(head, justify="right")
        for stage, values in each["stages_ms"].items():
            cells = (f"{values[key]:.2f}" for key in ("p50", "p90", "p99", "mean"))
            table.add_row(stage, *cells, style="bold" if stage == WHOLE_CALL else "")
        output.print(table)
        output.print(_summary(each), highlight=False, markup=False)
    packages = ", ".join(f"{name} {found}" for name, found in machine["packages"].items())
    cores = f"{machine['cores_usable']} cores, load {machine['load_average_1min']} before"
    output.print(f"{machine['cpu']}, {cores}; python {machine['python']}, {packages}", highlight=False, markup=False)


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


def main() -> None:
    """Console script."""
    console.run(app)
