"""`agvas-bench serve`: the load of many cameras on a server. How it is made and what is measured is in `load/`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agvas_runtime import console
from agvas_runtime.bench.load.schedule import MOST_CAMERAS, Arrivals, read_cameras
from agvas_runtime.bench.publish import check_places, publish
from agvas_runtime.connection_options import CaOption, CertOption, KeyOption, TokenOption
from agvas_runtime.errors import EngineError, InputError

if TYPE_CHECKING:
    from agvas_runtime.bench.load.connection import Connection
    from agvas_runtime.bench.load.pictures import Picture
    from agvas_runtime.bench.load.step import Target


MOST_PORT = 65535


class Protocol(str, Enum):
    """How the server is asked."""

    AGVAS = "agvas"
    KSERVE = "kserve"


class Policy(str, Enum):
    """What a camera's stream does where frames come faster than answers."""

    LATEST = "latest"
    BLOCK = "block"


def serve(
    target: Annotated[str, typer.Argument(metavar="HOST:PORT", help="Where the server listens.")],
    camera: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RATE_HZ[:DEADLINE_MS][xN]", help="Camera, or N alike [default: one of 10 Hz]; may repeat."
        ),
    ] = None,
    arrivals: Annotated[Arrivals, typer.Option(help="How a camera's frames follow each other.")] = Arrivals.CONSTANT,
    seconds: Annotated[float, typer.Option(min=0.1, max=86400, help="Length of a step.")] = 10.0,
    warmup: Annotated[float, typer.Option(min=0, max=3600, help="Seconds ahead of it that are not counted.")] = 2.0,
    wait: Annotated[float, typer.Option(min=0, max=3600, help="Longest wait for answers behind the last frame.")] = 5.0,
    ramp: Annotated[bool, typer.Option("--ramp", help="Find how many of these cameras keep the target.")] = False,
    target_p99_ms: Annotated[
        float | None, typer.Option(min=0.001, help="The target; a frame without a result is endlessly late.")
    ] = None,
    max_misses: Annotated[
        float | None, typer.Option(min=0, max=1, help="The target, or besides: largest share of missed deadlines.")
    ] = None,
    max_cameras: Annotated[int, typer.Option(min=1, max=MOST_CAMERAS, help="Where the ramp ends.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of Poisson arrivals.")] = 0,
    image: Annotated[list[Path] | None, typer.Option(help="Image or folder [default: generated]; may repeat.")] = None,
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Scale frames to this [default: their own; generated 256x256].")
    ] = None,
    encoded: Annotated[bool, typer.Option("--encoded", help="Send image files instead of raw RGB.")] = False,
    protocol: Annotated[Protocol, typer.Option(help="Ours, or KServe v2, which Triton speaks.")] = Protocol.AGVAS,
    policy: Annotated[Policy, typer.Option(help="agvas: what a full queue does.")] = Policy.LATEST,
    model: Annotated[str | None, typer.Option(help="kserve: its name [default: the only one, or ours].")] = None,
    input_name: Annotated[
        str | None, typer.Option("--input", help="kserve: the tensor for the frame, where several fit.")
    ] = None,
    output_name: Annotated[
        list[str] | None,
        typer.Option("--output", help="kserve: tensor to ask for [default: MASK and ENGINE_MS, or all]; may repeat."),
    ] = None,
    token_file: TokenOption = None,
    ca: CaOption = None,
    cert: CertOption = None,
    key: KeyOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON instead of tables.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the report (JSON) to this file.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write a page with plots into this folder.")] = None,
) -> None:
    r"""Put the load of many cameras on a running server: latency with all waiting in it, drops, misses, fairness.

    The load is open-loop: a frame is due when its camera's schedule says so, whether or not earlier ones are answered,
    and its latency counts from then. Overhead is the reply's time without the engine's. Ctrl-C ends it with a report of
    the steps that are finished.

    \b
    Examples:
      agvas-bench serve 127.0.0.1:50051 --camera 30:33x4 --seconds 60
      agvas-bench serve line4:50051 --camera 30:33 --camera 5:200x3 --arrivals poisson --ca ca.pem --token-file token
      agvas-bench serve 127.0.0.1:50051 --camera 10 --ramp --target-p99-ms 33 --size 592x592 --out ours.json
      agvas-bench serve 127.0.0.1:8001 --protocol kserve --model segmenter --camera 10 --ramp --target-p99-ms 33
    """
    from agvas_runtime.bench.load.connection import Connection
    from agvas_runtime.bench.load.measure import empty_report, measure
    from agvas_runtime.bench.load.pictures import load_pictures, read_size
    from agvas_runtime.bench.load.step import Load
    from agvas_runtime.bench.load.table import print_report
    from agvas_runtime.server.channel import read_token

    check_places(out, report)
    cameras = read_cameras(camera or ["10"])
    _check(target, ramp, target_p99_ms, max_misses, protocol, (model, input_name, output_name))
    load = Load(arrivals, seed, seconds, warmup, wait, target_p99_ms, max_misses)
    pictures = load_pictures(image or [], None if size is None else read_size(size), encoded)
    token = None if token_file is None else read_token(token_file)
    connection = Connection(target, token, ca, cert, key)
    server = _target(connection, pictures, protocol, policy, model, input_name, output_name or [])
    found = empty_report(server, load, pictures, policy.value if protocol is Protocol.AGVAS else None)
    try:
        found["carried"] = measure(server, cameras, load, max_cameras if ramp else None, found["steps"])
    except (KeyboardInterrupt, EngineError):
        if found["steps"]:
            console.note("ended early: the report has the steps that were finished")
            publish(console.finite(found), partial(print_report, load=load), as_json, out, report)
        raise
    publish(console.finite(found), partial(print_report, load=load), as_json, out, report)


def _target(
    connection: Connection,
    pictures: Sequence[Picture],
    protocol: Protocol,
    policy: Policy,
    model: str | None,
    input_name: str | None,
    outputs: Sequence[str],
) -> Target:
    if protocol is Protocol.AGVAS:
        from agvas_runtime.bench.load.inspect_target import InspectTarget

        return InspectTarget(connection, pictures, policy.value)
    from agvas_runtime.bench.load.kserve_target import KServeTarget

    return KServeTarget(connection, pictures, model, input_name, outputs)


def _check(
    target: str, ramp: bool, target_p99_ms: float | None, max_misses: float | None, protocol: Protocol, kserve: Any
) -> None:
    """Raise InputError for options that make no sense beside each other."""
    if not re.fullmatch(r"\S+:\d+", target) or not 1 <= int(target.rpartition(":")[2][:6]) <= MOST_PORT:
        found = f"found the target {target!r}"
        raise InputError(f"{found}, expected HOST:PORT, as in 127.0.0.1:50051, with a port from 1 to {MOST_PORT}")
    if ramp and target_p99_ms is None and max_misses is None:
        raise InputError("--ramp: found no target, expected --target-p99-ms or --max-misses beside it")
    if protocol is Protocol.AGVAS and any(kserve):
        raise InputError("--model, --input and --output: found beside --protocol agvas, expected --protocol kserve")
