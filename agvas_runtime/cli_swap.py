"""`agvas-runtime swap`: another bundle for a running server, compared with the old one before it serves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from agvas_runtime import console
from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.proto.agvas.v1 import admin_pb2 as pb
from agvas_runtime.proto.agvas.v1 import admin_pb2_grpc as pb_grpc
from agvas_runtime.server.channel import open_channel, read_token

OUTCOMES = {
    pb.SwapEvent.PHASE_SWITCHED: "switched",
    pb.SwapEvent.PHASE_REFUSED: "refused",
    pb.SwapEvent.PHASE_COMPARED: "compared",
}
OPTIONS = {
    "shadow_frames": "--shadow",
    "shadow_timeout_s": "--timeout",
    "max_disagreement": "--max-disagreement",
    "min_iou": "--min-iou",
    "max_slowdown": "--max-slowdown",
}
"""Fields of the request by the names they have here."""
BAD_INPUT = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)


def swap(
    bundle: Annotated[str, typer.Argument(help="Folder of the new bundle, as it lies below the server's bundle root.")],
    server: Annotated[str, typer.Option(metavar="HOST:PORT", help="The server.")] = "127.0.0.1:50051",
    shadow: Annotated[
        int, typer.Option(min=0, help="Frames of the line that both bundles answer first; 0 compares nothing.")
    ] = 200,
    timeout: Annotated[float, typer.Option(help="Seconds that the line has to bring these frames.")] = 600.0,
    max_disagreement: Annotated[
        float, typer.Option(min=0, max=1, help="Largest share of frames with another verdict.")
    ] = 0.01,
    min_iou: Annotated[
        float, typer.Option(min=0, max=1, help="Smallest mean overlap of the masks, intersection over union.")
    ] = 0.9,
    max_slowdown: Annotated[float, typer.Option(help="Largest ratio of the median times, new to old.")] = 1.5,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Compare, and leave everything as it was.")] = False,
    token_file: Annotated[Path | None, typer.Option(help="File with a token that has the right admin.")] = None,
    ca: Annotated[Path | None, typer.Option(help="PEM file of who signed the server's certificate.")] = None,
    cert: Annotated[Path | None, typer.Option(help="PEM file with a certificate of your own.")] = None,
    key: Annotated[Path | None, typer.Option(help="PEM file with its key.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> int:
    r"""Swap the bundle of a running server, without stopping the line.

    A second engine loads the new bundle and answers frames of the line beside the old one. It takes over only if it
    agrees. Ctrl-C before that leaves everything as it was. Exits with 0 if the server switched (with --dry-run: would
    have switched), 1 if it refused, 2 for bad input.

    \b
    Examples:
      agvas-runtime swap bottles-2
      agvas-runtime swap bottles-2 --shadow 1000 --dry-run --json
      agvas-runtime swap bottles-2 --server line4:50051 --ca ca.pem --token-file admin.token
    """
    request = pb.SwapRequest(
        bundle=bundle,
        shadow_frames=shadow,
        shadow_timeout_s=timeout,
        max_disagreement=max_disagreement,
        min_iou=min_iou,
        max_slowdown=max_slowdown,
        dry_run=dry_run,
    )
    token = None if token_file is None else read_token(token_file)
    with open_channel(server, token=token, ca=ca, cert=cert, key=key) as channel, _called(server):
        last = _follow(pb_grpc.AdminStub(channel).Swap(request), shadow)
    if as_json:
        console.print_json(_document(last))
    else:
        _print(last)
    if last.phase == pb.SwapEvent.PHASE_REFUSED:
        raise EngineError(f"{bundle} is refused: {last.reason}")
    return 0


@contextmanager
def _called(server: str) -> Iterator[None]:
    """Say what a failed call means. Raises InputError, EngineError."""
    try:
        yield
    except grpc.RpcError as error:
        failed: Any = error
        text = failed.details() or failed.code().name.lower().replace("_", " ")
        if failed.code() not in BAD_INPUT:
            raise EngineError(f"{server}: {text}") from None
        field, colon, rest = text.partition(":")
        raise InputError(OPTIONS.get(field, field) + colon + rest) from None
    except KeyboardInterrupt:
        console.note("cancelled; the server goes on with the bundle it has")
        raise


def _follow(events: Iterator[pb.SwapEvent], frames: int) -> pb.SwapEvent:
    """Show how far it is, on a terminal as a bar. Returns the last event."""
    shown = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    last = pb.SwapEvent()
    with Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal) as bar:
        task = bar.add_task("loading", total=frames or None)
        for event in events:
            if event.phase != last.phase and event.phase not in OUTCOMES and not shown.is_terminal:
                console.note(pb.SwapEvent.Phase.Name(event.phase).removeprefix("PHASE_").lower())
            if event.phase == pb.SwapEvent.PHASE_SHADOW:
                bar.update(task, description="shadow", completed=event.comparison.frames + event.comparison.errors)
            last = event
    if last.phase not in OUTCOMES:
        raise EngineError("the server ended the swap without saying how; ask it for its model")
    return last


def _print(event: pb.SwapEvent) -> None:
    old, new, figures = getattr(event, "from"), event.to, event.comparison
    table = Table("", "old", "new")
    table.add_row("bundle", old.name, new.name)
    table.add_row("sha256", old.bundle_sha256[:12], new.bundle_sha256[:12])
    if figures.frames:
        table.add_row("median ms a frame", f"{figures.old_p50_ms:.1f}", f"{figures.new_p50_ms:.1f}")
    console.output().print(table)
    if figures.frames:
        share = f"{figures.same_verdict / figures.frames:.1%}"
        print(f"{figures.frames} frames: {figures.same_verdict} with the same verdict ({share})")
        print(f"overlap of the masks: {figures.mean_iou:.3f} on average, {figures.min_iou:.3f} at least")
    if event.phase == pb.SwapEvent.PHASE_SWITCHED:
        print(f"switched: {new.name} serves")
    elif event.phase == pb.SwapEvent.PHASE_COMPARED:
        print(f"within the limits; {old.name} goes on serving")


def _document(event: pb.SwapEvent) -> dict[str, object]:
    old, figures = getattr(event, "from"), event.comparison
    fields = [field.name for field in pb.Comparison.DESCRIPTOR.fields]
    return {
        "outcome": OUTCOMES[event.phase],
        "reason": event.reason,
        "from": {"name": old.name, "bundle_sha256": old.bundle_sha256},
        "to": {"name": event.to.name, "bundle_sha256": event.to.bundle_sha256},
        "comparison": {name: getattr(figures, name) for name in fields} if event.HasField("comparison") else None,
    }
