"""agvas-bench: the command line. What is measured is in latency.py and memory.py, what is compared in groups.py."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from agvas_runtime import console
from agvas_runtime.bench.frames import bench_frames
from agvas_runtime.bench.groups import base_of, in_groups, trie_cost
from agvas_runtime.bench.latency import Contender, open_track, race
from agvas_runtime.bench.machine import describe_machine
from agvas_runtime.bench.memory import measure_memory
from agvas_runtime.bench.plot import draw_plot
from agvas_runtime.bench.table import print_report
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
        typer.Option(help="With commas: ort, ort-cuda, tensorrt, each also with -plain; reference, compiled-decode."),
    ] = "ort",
    contender: Annotated[
        list[str] | None, typer.Option(help="[NAME=]ENGINE[:PATH] instead of --bundle and --engine; may repeat.")
    ] = None,
    mode: Annotated[Mode, typer.Option(help="What the model is asked for.")] = Mode.DIRECT,
    instruction: Annotated[str | None, typer.Option(help="Your own instruction, instead of the mode's.")] = None,
    class_name: Annotated[str | None, typer.Option(help="What to look for, in the mode's own instruction.")] = None,
    normal_look: Annotated[
        str | None, typer.Option(help="Sentence on the object's normal look, for describe-plus.")
    ] = None,
    image: Annotated[list[Path] | None, typer.Option(help="Image or folder [default: generated]; may repeat.")] = None,
    frames: Annotated[int, typer.Option(min=1, help="Measured frames of each contender.")] = 200,
    warmup: Annotated[int, typer.Option(min=0, help="Frames before them that are not counted.")] = 20,
    threads: Annotated[
        int | None, typer.Option(min=1, max=256, help="CPU threads [default: one for each core].")
    ] = None,
    memory: Annotated[bool, typer.Option(help="Measure memory too, in a process for each contender.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON instead of a table.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the report (JSON) to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write bars per stage to this PNG file.")] = None,
) -> None:
    """Time the stages of one frame after another: p50, p90, p99, frames per second, memory.

    Several contenders take turns frame by frame. The frames are encoded images, so decoding is included; `call` is the
    whole call as its caller sees it. `ort-plain` is `ort` without known answers: the same graphs, token by token.
    Frames are shown apart by whether the pass alone answered (hit, miss), by the answer, and, where a folder `good` is
    among the folders, by whether they are normal.

    \b
    Examples:
      agvas-bench engine
      agvas-bench engine --bundle bundles/fp32 --bundle bundles/int8 --frames 500 --out engines.json --plot engines.png
      agvas-bench engine --contender ort --contender slow=reference:checkpoints/tiny --threads 1 --json
      agvas-bench engine --engine ort,ort-plain,compiled-decode,reference --image parts/good --image parts/crack
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
        print_report(report)


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
    base = base_of(tracks)
    results = [{**track.report(), "groups": in_groups(track, base)} for track in tracks]
    trie, base_name = trie_cost(tracks), base.contender.name
    del base, tracks[:]  # their memory, before others' is measured
    for result, contender in zip(results, contenders, strict=True):
        result["memory"] = measure_memory(contender, data, threads, request) if memory else None
    return {
        "schema": 2,
        "machine": machine,
        "frames": frames,
        "warmup": warmup,
        "threads": threads,
        "images": [str(path) for path in images] or "generated",
        "frame_bytes_mean": sum(len(frame.data) for frame in data) / len(data),
        "base": base_name,
        "trie": trie,
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


def main() -> None:
    """Console script."""
    console.run(app)
