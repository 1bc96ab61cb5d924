"""What the commands of an operator ask a running server, and how they show the answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
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


def swapped(
    server: str,
    *,
    token_file: Path | None = None,
    ca: Path | None = None,
    cert: Path | None = None,
    key: Path | None = None,
    shadow_frames: int,
    **fields: Any,
) -> pb.SwapEvent:
    """Have a server swap its bundle and show how far it is, on stderr.

    Args:
        server: `host:port`.
        token_file: holds a token with the right admin.
        ca, cert, key: see `open_channel`.
        shadow_frames, fields: of `SwapRequest`.

    Returns:
        The last event. Leaving before calls the swap off.

    Raises:
        InputError: the server finds the request wrong, a file cannot be used.
        EngineError: the server cannot be reached, or does not do it now.
    """
    token = None if token_file is None else read_token(token_file)
    with open_channel(server, token=token, ca=ca, cert=cert, key=key) as channel, _called(server):
        request = pb.SwapRequest(shadow_frames=shadow_frames, **fields)
        return _follow(pb_grpc.AdminStub(channel).Swap(request), shadow_frames)


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


def print_outcome(event: pb.SwapEvent) -> None:
    """Both bundles side by side, on stdout."""
    old, new, figures = getattr(event, "from"), event.to, event.comparison
    table = Table("", "old", "new")
    table.add_row("bundle", console.one_line(old.name), console.one_line(new.name))
    table.add_row("sha256", old.bundle_sha256[:12], new.bundle_sha256[:12])
    if figures.frames:
        table.add_row("median ms a frame", f"{figures.old_p50_ms:.1f}", f"{figures.new_p50_ms:.1f}")
    console.output().print(table)
    if figures.frames:
        share = f"{figures.same_verdict / figures.frames:.1%}"
        print(f"{figures.frames} frames: {figures.same_verdict} with the same verdict ({share})")
        print(f"overlap of the masks: {figures.mean_iou:.3f} on average, {figures.min_iou:.3f} at least")
    if event.phase == pb.SwapEvent.PHASE_SWITCHED:
        print(f"switched: {console.one_line(new.name)} serves")
    elif event.phase == pb.SwapEvent.PHASE_COMPARED:
        print(f"within the limits; {console.one_line(old.name)} goes on serving")


def document(event: pb.SwapEvent) -> dict[str, object]:
    """The last event of a swap, for JSON."""
    old, figures = getattr(event, "from"), event.comparison
    fields = [field.name for field in pb.Comparison.DESCRIPTOR.fields]
    return {
        "outcome": OUTCOMES[event.phase],
        "reason": event.reason,
        "from": {"name": old.name, "bundle_sha256": old.bundle_sha256},
        "to": {"name": event.to.name, "bundle_sha256": event.to.bundle_sha256},
        "comparison": {name: getattr(figures, name) for name in fields} if event.HasField("comparison") else None,
    }
