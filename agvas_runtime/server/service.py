"""The `Inspection` service: checks a request, has the frame segmented, makes the reply. It knows no graphs.

The engine uses every core, so one thread runs it, frame by frame in order of arrival; decoding, and making the reply,
run beside it in the handlers' own threads.
"""

import threading
import traceback
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import replace
from time import perf_counter
from typing import Any, Protocol, TypeVar

import grpc
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from agvas_runtime.console import one_line
from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.frames import decode_image
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.proto.agvas.v1 import inspection_pb2_grpc as pb_grpc
from agvas_runtime.result import Result
from agvas_runtime.server import replies
from agvas_runtime.server.pixels import raw_to_rgb
from agvas_runtime.verdict import Recipe

Reply = TypeVar("Reply")

MAX_WAITING = 16
"""Frames that may wait for the engine; one more is refused at once. It bounds the memory that clients can take."""

NO_ANSWER_ACTIONS = {
    pb.NO_ANSWER_ACTION_UNSPECIFIED: "reject",
    pb.NO_ANSWER_ACTION_REJECT: "reject",
    pb.NO_ANSWER_ACTION_PASS: "pass",
    pb.NO_ANSWER_ACTION_STOP: "stop",
}


class FrameSegmenter(Protocol):
    """What the service asks of a segmenter."""

    def segment(self, image: NDArray[np.uint8], instruction: str | None, recipe: Recipe) -> Result:
        """Segment one RGB image, uint8 [H, W, 3]."""


class _Overloaded(Exception):
    """Too many frames are waiting."""


class InspectionService(pb_grpc.InspectionServicer):
    """Answers `Segment` and `GetModel`.

    Args:
        segmenter: runs the model.
        model: the reply to `GetModel`; its identity goes into every other reply.
    """

    def __init__(self, segmenter: FrameSegmenter, model: pb.GetModelResponse) -> None:
        self._segmenter = segmenter
        self._model = model
        self._engine = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._slots = threading.BoundedSemaphore(MAX_WAITING)

    def close(self) -> None:
        """Let the frame in the engine finish and drop those that wait; after that nobody uses the segmenter."""
        self._engine.shutdown(cancel_futures=True)

    def Segment(self, request: pb.SegmentRequest, context: grpc.ServicerContext) -> pb.SegmentResponse:
        """One frame in, one verdict with its mask out."""
        return _answered(lambda: self._segment(request, context), context)

    def GetModel(self, request: pb.GetModelRequest, context: grpc.ServicerContext) -> pb.GetModelResponse:
        """The loaded model."""
        return self._model

    def _segment(self, request: pb.SegmentRequest, context: grpc.ServicerContext) -> pb.SegmentResponse:
        arrived = perf_counter()
        if not self._slots.acquire(blocking=False):
            raise _Overloaded(f"{MAX_WAITING} frames are waiting for the engine already; send the next after an answer")
        try:
            recipe = recipe_of(request)
            replies.check_formats(request)
            image = image_of(request.frame)
            decoded = perf_counter()
            result, queue_ms = self._run(image, request.instruction or None, recipe, context)
        finally:
            self._slots.release()
        decode_ms = (decoded - arrived) * 1000
        timings = {"decode": decode_ms, **{stage: ms for stage, ms in result.timings_ms.items() if stage != "decode"}}
        timings["total"] += decode_ms - result.timings_ms.get("decode", 0.0)
        encoding = perf_counter()
        reply = replies.result_reply(replace(result, timings_ms=timings), recipe)
        replies.add_pictures(reply, result, request)
        reply.identity.CopyFrom(request.frame.identity)
        reply.model.CopyFrom(self._model.model)
        done = perf_counter()
        reply.timings.add(stage="queue", ms=queue_ms)
        reply.timings.add(stage="encode", ms=(done - encoding) * 1000)
        reply.timings.add(stage="server", ms=(done - arrived) * 1000)
        return reply

    def _run(
        self, image: NDArray[np.uint8], instruction: str | None, recipe: Recipe, context: grpc.ServicerContext
    ) -> tuple[Result, float]:
        """The result and the milliseconds spent waiting; a caller who is gone when the turn comes is skipped."""
        queued = perf_counter()

        def run() -> tuple[Result, float]:
            queue_ms = (perf_counter() - queued) * 1000
            return self._segmenter.segment(image, instruction, recipe), queue_ms

        future = self._engine.submit(run)
        context.add_callback(future.cancel)
        return future.result()


def recipe_of(request: pb.SegmentRequest) -> Recipe:
    """The recipe of a request, with its defaults; raises InputError naming the field."""
    asked = request.recipe
    if asked.on_no_answer not in NO_ANSWER_ACTIONS:
        raise InputError(f"recipe.on_no_answer: found {asked.on_no_answer}, expected REJECT, PASS or STOP")
    values: dict[str, Any] = {"on_no_answer": NO_ANSWER_ACTIONS[asked.on_no_answer]}
    values |= {name: getattr(asked, name) for name in ("min_area_px", "min_score") if asked.HasField(name)}
    try:
        return Recipe(**values)
    except ValidationError as error:
        first = error.errors()[0]
        rule = first["msg"][:1].lower() + first["msg"][1:]
        raise InputError(f"recipe.{first['loc'][0]}: found {first['input']}, {rule}") from None


def image_of(frame: pb.Frame) -> NDArray[np.uint8]:
    """The frame as upright RGB, uint8 [H, W, 3]; raises InputError naming the field."""
    content = frame.WhichOneof("content")
    if content == "raw":
        return raw_to_rgb(frame.raw)
    if content == "encoded":
        return decode_image(frame.encoded, "frame.encoded")
    raise InputError("frame.content: found nothing, expected raw or encoded")


def _answered(answer: Callable[[], Reply], context: grpc.ServicerContext) -> Reply:
    """The answer, or a status with one line of text for whatever went wrong."""
    try:
        return answer()
    except InputError as error:
        status, text = grpc.StatusCode.INVALID_ARGUMENT, str(error)
    except EngineError as error:
        status, text = grpc.StatusCode.INTERNAL, str(error)
    except CancelledError:
        status, text = grpc.StatusCode.CANCELLED, "the caller went away before the engine was free"
    except _Overloaded as error:
        status, text = grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)
    except Exception as error:
        traceback.print_exc()
        status, text = grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}"
    context.abort(status, one_line(text))
    raise AssertionError("abort always raises")
