"""`agvas-bench engine`: its command line. What is measured is in engines.py, what is said of it in table.py."""

from pathlib import Path
from typing import Annotated

import typer

from agvas_runtime import console
from agvas_runtime.bench.contenders import contenders_of
from agvas_runtime.bench.engines import Options, bench_engines
from agvas_runtime.bench.publish import check_places, publish
from agvas_runtime.bench.table import print_report
from agvas_runtime.errors import InputError
from agvas_runtime.modes import Mode, Request

LARGEST_BATCH = 256
MOST_FRAMES = 1_000_000
"""Each is kept, a kilobyte or so for each contender."""


def engine(
    targets: Annotated[
        list[Path] | None, typer.Argument(metavar="TARGET", help="Bundle or checkpoint [default: the embedded].")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="With commas: ort, ort-cuda, tensorrt, each also with -plain (bundles); reference, compiled-decode "
            "(checkpoints) [default: ort for a bundle, reference for a checkpoint]."
        ),
    ] = None,
    contender: Annotated[
        list[str] | None, typer.Option(help="[NAME=]ENGINE[:PATH] instead of targets and --engine; may repeat.")
    ] = None,
    mode: Annotated[Mode, typer.Option(help="What the model is asked for.")] = Mode.DIRECT,
    instruction: Annotated[str | None, typer.Option(help="Your own instruction, instead of the mode's.")] = None,
    class_name: Annotated[str | None, typer.Option(help="What to look for, in the mode's own instruction.")] = None,
    normal_look: Annotated[
        str | None, typer.Option(help="Sentence on the object's normal look, for describe-plus.")
    ] = None,
    image: Annotated[list[Path] | None, typer.Option(help="Image or folder [default: generated]; may repeat.")] = None,
    frames: Annotated[int, typer.Option(min=1, max=MOST_FRAMES, help="Measured frames of each contender.")] = 200,
    warmup: Annotated[int, typer.Option(min=0, max=MOST_FRAMES, help="Frames before them that are not counted.")] = 20,
    spread: Annotated[
        float, typer.Option(min=0, max=86_400, help="Seconds over which bouts of 20 frames are spread, at least.")
    ] = 20.0,
    by_turns: Annotated[
        Path | None, typer.Option(help="File that other runs name, too: they measure side by side, bout by bout.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=256, help="CPU threads [default: one for each core].")
    ] = None,
    batch: Annotated[
        str, typer.Option(help="Throughput of so many frames together, with commas; 1 is what is timed anyway.")
    ] = "1,2,4",
    alone: Annotated[
        bool, typer.Option(help="Measure start, memory and energy, in a process for each contender.")
    ] = True,
    data: Annotated[Path | None, typer.Option(help="Data set to score too, as agvas-eval does.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Of --data: images of each category.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON instead of tables.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the report (JSON) to this file.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write a page with plots to this folder.")] = None,
) -> None:
    """Time one frame after another, stage by stage; throughput, start, memory, energy, and quality beside it.

    Several contenders take turns frame by frame, in bouts with rests between them, since a shared machine is slow for
    seconds at a time. The frames are encoded images, so decoding is included; `call` is the
    whole call as its caller sees it. `ort-plain` is `ort` without known answers: the same graphs, token by token.
    Frames are shown apart by whether the pass alone answered (hit, miss), by the answer, and, where a folder `good` is
    among the folders, by whether they are normal. Masks are compared with those of `reference` where it takes part,
    else with the first contender's.

    \b
    Examples:
      agvas-bench engine
      agvas-bench engine bundles/fp32 bundles/int8 --frames 500 --out engines.json --report engines
      agvas-bench engine bundles/fp32 checkpoints/tiny --engine ort,ort-plain,reference --data data/mvtec --limit 20
      agvas-bench engine --engine ort,ort-plain,compiled-decode,reference --image parts/good --image parts/crack
      agvas-bench engine --contender ort --contender slow=reference:checkpoints/tiny --threads 1 --json
    """
    check_places(out, report)
    request = Request(mode, instruction, class_name, normal_look)
    contenders = contenders_of(targets or [], engine, contender or [])
    sizes = parse_batches(batch)
    options = Options(image or (), frames, warmup, spread, by_turns, threads, sizes, alone, data, limit, request)
    failed: list[BaseException] = []
    found = bench_engines(contenders, options, failed)
    publish(console.finite(found), print_report, as_json, out, report)
    if failed:
        raise failed[-1]


def parse_batches(text: str) -> tuple[int, ...]:
    """Sizes of batches from "1,2,4", each once, in the given order. Raises InputError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 1 <= int(part) <= LARGEST_BATCH for part in parts):
        raise InputError(f"--batch: found {text!r}, expected whole numbers from 1 to {LARGEST_BATCH} with commas")
    return tuple(dict.fromkeys(map(int, parts)))
