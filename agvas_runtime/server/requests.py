"""What a caller asks for: messages -> task, deadline, pixels in shared memory. The way back is `replies.py`.

Settings are read once: frames of a stream that ask the same share them.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from threading import BoundedSemaphore, Lock
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from agvas_runtime.cpu import usable_cores
from agvas_runtime.errors import InputError
from agvas_runtime.frames import decode_image
from agvas_runtime.maps import window
from agvas_runtime.modes import Mode, Request
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.server.engine.arena import Arena, ArenaFull, Block
from agvas_runtime.server.engine.task import Task
from agvas_runtime.server.pixels import raw_to_rgb
from agvas_runtime.server.recipes import NamedRecipe, RecipeBook, merge
from agvas_runtime.verdict import Recipe
from agvas_runtime.writer import Decoding

Values = TypeVar("Values", bound=BaseModel)

NO_ANSWER_ACTIONS = {
    pb.NO_ANSWER_ACTION_UNSPECIFIED: "reject",
    pb.NO_ANSWER_ACTION_REJECT: "reject",
    pb.NO_ANSWER_ACTION_PASS: "pass",
    pb.NO_ANSWER_ACTION_STOP: "stop",
}
MODES = {pb.Mode.Value(f"MODE_{mode.name}"): mode for mode in Mode}
MOST_SIDE = 65_536
"""Pixels. The engine takes some kilobytes for each of a frame's longer side: one of many megapixels in a single row
would take all memory there is."""
SETTINGS_KEPT = 256
"""Settings that were read and may come again; each is small."""
MOST_KEY = 4096
"""Characters and bytes of what is asked; settings of more are not kept."""
IDS = ("camera_id", "part_id", "trigger_id")
MOST_ID = 256
"""Characters of each: they are copied into every answer."""
NO_MAP = (pb.PROBABILITY_FORMAT_UNSPECIFIED, pb.PROBABILITY_FORMAT_NONE)


@dataclass(frozen=True)
class Settings:
    """What is asked about a frame, read and checked."""

    task: Task
    message: pb.SegmentRequest
    """Recipe, stream defaults and request in one; without a frame."""
    recipe_name: str
    """The recipe that was taken; empty for none."""

    def deadline(self, arrived: float) -> float | None:
        """By the performance counter, for a frame that arrived then."""
        return arrived + self.message.deadline_ms / 1000 if self.message.HasField("deadline_ms") else None


class Intake:
    """Reads requests and puts their frames into shared memory. Safe to use from several threads.

    Args:
        book: the server's recipes.
        arena: where frames go.
        max_pixels: of a frame.
    """

    def __init__(self, book: RecipeBook, arena: Arena, max_pixels: int) -> None:
        self._book, self._arena, self._max_pixels = book, arena, max_pixels
        self._decoding = BoundedSemaphore(max(2, os.cpu_count() or 1))
        self._hands = ThreadPoolExecutor(usable_cores(), "convert")
        self._kept: OrderedDict[tuple[object, ...], Settings] = OrderedDict()
        self._lock = Lock()

    @property
    def memory_bytes(self) -> int:
        """Shared memory for all frames."""
        return self._arena.size

    def settings(
        self, request: pb.SegmentRequest, camera_id: str, usual: Mode, defaults: pb.SegmentRequest | None = None
    ) -> Settings:
        """What a request asks: its own fields before the stream's defaults before the recipe's.

        Raises InputError naming the field.
        """
        named = self._named(request, defaults, camera_id)
        default_bytes = b"" if defaults is None else defaults.SerializeToString(deterministic=True)
        own = _own_values(request)
        key = (named and (named.name, named.sha256), default_bytes, own, usual)
        texts = (value for _, value in own if isinstance(value, str | bytes))
        small = len(default_bytes) + sum(map(len, texts)) <= MOST_KEY  # they may hold what no field is, too
        with self._lock:
            if small and key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        settings = read_settings(merge(named, defaults, own_fields(request)), usual, named.name if named else "")
        if not small:
            return settings
        with self._lock:
            self._kept[key] = settings
            while len(self._kept) > SETTINGS_KEPT:
                self._kept.popitem(last=False)
        return settings

    def place(
        self,
        frame: pb.Frame,
        pixels: memoryview | None,
        settings: Settings,
        wait_s: float = 0.0,
        waits_on: Callable[[], bool] = lambda: False,
    ) -> tuple[Block, float]:
        """The frame in shared memory, upright RGB, and the milliseconds that decoding it took.

        Raw pixels may be beside their message, see `apart.py`. Where there is no room in that time it asks `waits_on`
        whether to wait as long again.

        Raises InputError naming the field; ArenaFull where there is no room.
        """
        check_ids(frame.identity, "frame.identity")
        slow = frame.WhichOneof("content") == "encoded"  # raw frames wait for no image that takes long to decode
        with self._decoding if slow else nullcontext():
            started = perf_counter()
            image = image_of(frame, pixels, self._max_pixels, self._hands)
            decoded = perf_counter()
        if settings.task.recipe.roi is not None:
            window(settings.task.recipe.roi, image.shape[:2])  # one that misses its frame would spoil a whole batch
        while True:
            try:
                return self._arena.place(image, wait_s=wait_s), (decoded - started) * 1000
            except ArenaFull:
                if not waits_on():
                    raise

    def _named(
        self, request: pb.SegmentRequest, defaults: pb.SegmentRequest | None, camera_id: str
    ) -> NamedRecipe | None:
        """The recipe that the caller names, or the camera's, or the default one."""
        name = request.recipe_name or (defaults.recipe_name if defaults is not None else "")
        if name:
            return self._book.get(name)
        return (self._book.find(camera_id) if camera_id else None) or self._book.find("default")


def _own_values(request: pb.SegmentRequest) -> tuple[tuple[int, object], ...]:
    """Stands for `own_fields`, and takes a third of the time."""
    return tuple(
        (field.number, value if field.message_type is None else value.SerializeToString(deterministic=True))
        for field, value in request.ListFields()
        if field.number != pb.SegmentRequest.FRAME_FIELD_NUMBER
    )


def own_fields(request: pb.SegmentRequest) -> pb.SegmentRequest:
    """The request without its frame, whose bytes are not copied, and without what no field is: it is kept."""
    rest = pb.SegmentRequest()
    for field, value in request.ListFields():
        if field.name == "frame":
            continue
        if field.message_type is None:
            setattr(rest, field.name, value)
        else:
            getattr(rest, field.name).CopyFrom(value)
    rest.DiscardUnknownFields()
    return rest


def check_ids(message: pb.FrameIdentity | pb.CameraStream | pb.ScanStream, where: str) -> None:
    """Raise InputError for an id of a camera, part or trigger that is too long."""
    for field in IDS:
        count = len(getattr(message, field, ""))
        if count > MOST_ID:
            raise InputError(f"{where}.{field}: found {count} characters, expected at most {MOST_ID}")


def identity_of(frame: pb.Frame) -> pb.FrameIdentity:
    """What a frame says of itself, for its answer: without ids that are too long, and without what no field is."""
    identity = pb.FrameIdentity()
    identity.CopyFrom(frame.identity)
    identity.DiscardUnknownFields()
    for field in IDS:
        if len(getattr(identity, field)) > MOST_ID:
            identity.ClearField(field)
    return identity


def read_settings(message: pb.SegmentRequest, usual: Mode, recipe_name: str = "") -> Settings:
    """Check a request that stands for itself, in the usual mode unless it names another.

    Raises InputError naming the field.
    """
    check_formats(message)
    if message.HasField("deadline_ms") and not 0 < message.deadline_ms < 1e9:  # NaN is not above 0
        raise InputError(f"deadline_ms: found {message.deadline_ms:g}, expected milliseconds above 0, below 1e9")
    task = Task(
        request_of(message, usual),
        recipe_of(message),
        decoding_of(message),
        probability=message.probability_format not in NO_MAP,
    )
    return Settings(task, message, recipe_name)


def check_formats(message: pb.SegmentRequest) -> None:
    """Raise InputError for a format of mask or probability map that the protocol does not know."""
    for field, kind in (("mask_format", pb.MaskFormat), ("probability_format", pb.ProbabilityFormat)):
        found = getattr(message, field)
        if found not in kind.values():
            prefix = f"{field.upper()}_"
            *names, last = (name.removeprefix(prefix) for name in kind.keys()[1:])
            raise InputError(f"{field}: found {found}, expected {', '.join(names)} or {last}")


def request_of(message: pb.SegmentRequest, usual: Mode) -> Request:
    """What the model is asked; raises InputError naming the field."""
    if message.mode not in MODES and message.mode != pb.MODE_UNSPECIFIED:
        *names, last = (mode.name for mode in Mode)
        raise InputError(f"mode: found {message.mode}, expected {', '.join(names)} or {last}")
    texts = (message.instruction, message.class_name, message.normal_look)
    request = Request(MODES.get(message.mode, usual), *(text or None for text in texts))
    request.check()
    return request


def recipe_of(message: pb.SegmentRequest) -> Recipe:
    """The recipe of a request, with its defaults; raises InputError naming the field."""
    asked = message.recipe
    if asked.on_no_answer not in NO_ANSWER_ACTIONS:
        raise InputError(f"recipe.on_no_answer: found {asked.on_no_answer}, expected REJECT, PASS or STOP")
    values = _present(asked, "min_area_px", "min_score", "threshold", "alpha")
    if asked.HasField("roi"):
        values["roi"] = (asked.roi.x0, asked.roi.y0, asked.roi.x1, asked.roi.y1)
    return _checked(Recipe, "recipe", {**values, "on_no_answer": NO_ANSWER_ACTIONS[asked.on_no_answer]})


def decoding_of(message: pb.SegmentRequest) -> Decoding:
    """How the answer is to be written; raises InputError naming the field."""
    values = _present(message.decoding, "max_new_tokens", "temperature", "top_p", "seed", "strict_below")
    return _checked(Decoding, "decoding", {**values, "text": not message.decoding.no_text})


def image_of(
    frame: pb.Frame, pixels: memoryview | None, max_pixels: int, hands: Executor | None = None
) -> NDArray[np.uint8]:
    """The frame as upright RGB, uint8 [H, W, 3]; raises InputError naming the field."""
    content = frame.WhichOneof("content")
    if content == "encoded":
        return decode_image(frame.encoded, "frame.encoded", max_pixels, MOST_SIDE)
    if content != "raw":
        raise InputError("frame.content: found nothing, expected raw or encoded")
    image = raw_to_rgb(frame.raw, pixels, max_pixels, hands)
    height, width, _ = image.shape
    if max(height, width) > MOST_SIDE:
        found = f"found {width} x {height} pixels, expected at most {MOST_SIDE} along either side"
        raise InputError(f"frame.raw: {found}")
    return image


def _present(message: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(message, name) for name in names if message.HasField(name)}


def _checked(kind: type[Values], field: str, values: dict[str, Any]) -> Values:
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        rule = first["msg"][:1].lower() + first["msg"][1:]
        raise InputError(f"{field}.{first['loc'][0]}: found {first['input']}, {rule}") from None
