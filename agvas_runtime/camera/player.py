"""Plays image files to a server as a line camera would: paced, numbered, stamped, one frame on its way at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter, sleep

from agvas_runtime.client import Client, ConnectionLostError
from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.frames import read_bytes, read_image
from agvas_runtime.verdict import Recipe, Verdict
from agvas_runtime.wire import FrameIdentity, SegmentReply


@dataclass(frozen=True)
class Playback:
    """How the camera behaves."""

    frames: Sequence[Path]
    count: int
    """Frames to send; the files are repeated, in order, until there are that many."""
    fps: float = 0.0
    """Triggers a second; 0 triggers as soon as the answer to the frame before is in."""
    raw: bool = False
    """Send pixels (RGB8), as a camera does, instead of the image files as they are."""
    camera_id: str = "folder"
    instruction: str | None = None
    recipe: Recipe | None = None
    """Only what was set of it has precedence over the server's recipe."""
    recipe_name: str | None = None
    masks: bool = True
    """Have the masks sent."""


@dataclass(frozen=True)
class Shot:
    """One frame and what became of it."""

    sequence: int
    path: Path
    late_ms: float
    """How long after its trigger the frame was sent, because the answer before it was still due."""
    reply: SegmentReply | None
    error: InputError | EngineError | None = None
    """Why there is no reply."""

    @property
    def connection_lost(self) -> bool:
        """Whether no server answered."""
        return isinstance(self.error, ConnectionLostError)

    @property
    def verdict(self) -> Verdict:
        """NO_ANSWER where there is no reply."""
        return Verdict.NO_ANSWER if self.reply is None else self.reply.verdict

    def without_mask(self) -> Shot:
        """The same without what takes memory."""
        return replace(self, reply=self.reply and replace(self.reply, mask=None, groups=()))


def play(client: Client, playback: Playback) -> Iterator[Shot]:
    """Send the frames and yield each with its answer; a frame without one is a shot like any other."""
    started = perf_counter()
    for sequence in range(playback.count):
        path = playback.frames[sequence % len(playback.frames)]
        due = started + sequence / playback.fps if playback.fps > 0 else perf_counter()
        sleep(max(0.0, due - perf_counter()))
        late_ms = (perf_counter() - due) * 1000
        identity = FrameIdentity(
            camera_id=playback.camera_id, sequence=sequence, capture_time=datetime.now(timezone.utc)
        )
        try:
            reply = client.segment(
                read_image(path) if playback.raw else read_bytes(path),
                playback.instruction,
                recipe=playback.recipe,
                recipe_name=playback.recipe_name,
                identity=identity,
                mask="packed_bits" if playback.masks else "none",
            )
        except (InputError, EngineError) as error:
            error.__context__ = None  # it holds the frame
            yield Shot(sequence, path, late_ms, None, error.with_traceback(None))
        else:
            yield Shot(sequence, path, late_ms, reply)
