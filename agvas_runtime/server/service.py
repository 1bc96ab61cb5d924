"""The `Inspection` service: checks a request, has the frame segmented, makes the reply. It knows no graphs.

The engine uses every core, so one thread runs it, in order of arrival; decoding images, and making replies, run beside
it in the handlers' own threads. A long answer is a job a token, so that a line camera's frame never waits for more than
one.
"""

import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from time import perf_counter
from typing import Protocol, TypeVar

import grpc
import numpy as np
from numpy.typing import NDArray

from agvas_runtime.console import one_line
from agvas_runtime.errors import Cancelled, EngineError, InputError
from agvas_runtime.modes import Mode, Request
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.proto.agvas.v1 import inspection_pb2_grpc as pb_grpc
from agvas_runtime.result import Result
from agvas_runtime.segmenter import Event, GroupMap, Text
from agvas_runtime.server import replies
from agvas_runtime.server.requests import Asked, read_request
from agvas_runtime.server.turns import Turns, while_taken
from agvas_runtime.verdict import Recipe
from agvas_runtime.writer import Decoding

Reply = TypeVar("Reply")

MAX_WAITING = 16
"""Frames that may wait for the engine, or have their answers written; one more is refused at once. It bounds the memory
that clients can take."""
PATIENCE_S = 30.0
"""How long a caller of `Explain` may leave an event untaken."""
TOKENS_A_JOB = 128
"""An answer that may be longer is written in one job a token."""


class FrameSegmenter(Protocol):
    """What the service asks of a segmenter; `Segmenter` says what it means."""

    def segment_batch(
        self,
        images: Sequence[NDArray[np.uint8]],
        request: Request,
        recipe: Recipe,
        *,
        decoding: Decoding,
        cancelled: Callable[[], bool],
    ) -> list[Result]:
        """Segment RGB images, uint8 [H, W, 3]."""

    def stream(
        self,
        image: NDArray[np.uint8],
        request: Request,
        recipe: Recipe,
        *,
        decoding: Decoding,
        cancelled: Callable[[], bool],
    ) -> Generator[Event, None, None]:
        """Segment one RGB image as its answer is written, the result last."""


class _Overloaded(Exception):
    """Too many frames are waiting."""


class InspectionService(pb_grpc.InspectionServicer):
    """Answers `Segment`, `Explain` and `GetModel`.

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
        """Let the job in the engine finish and drop those that wait; after that nobody uses the segmenter."""
        self._engine.shutdown(cancel_futures=True)

    def Segment(self, request: pb.SegmentRequest, context: grpc.ServicerContext) -> pb.SegmentResponse:
        """One frame in, one verdict with its mask out."""
        return _answered(lambda: self._segment(request, context), context)

    def Explain(self, request: pb.SegmentRequest, context: grpc.ServicerContext) -> Iterator[pb.ExplainEvent]:
        """One frame in, its answer out as it is written."""
        with closing(self._explain(request, context)) as events:
            answered = iter(lambda: _answered(lambda: next(events, None), context), None)
            yield from while_taken(answered, context, PATIENCE_S)

    def GetModel(self, request: pb.GetModelRequest, context: grpc.ServicerContext) -> pb.GetModelResponse:
        """The loaded model."""
        return self._model

    def _segment(self, request: pb.SegmentRequest, context: grpc.ServicerContext) -> pb.SegmentResponse:
        arrived = perf_counter()
        with self._slot():
            asked = read_request(request, Mode.DIRECT)
            decoded = perf_counter()
            turns = Turns(self._engine, context)
            result = self._result(asked, turns)
        return self._reply(request, asked, result, turns, arrived, decoded)

    def _explain(
        self, request: pb.SegmentRequest, context: grpc.ServicerContext
    ) -> Generator[pb.ExplainEvent, None, None]:
        arrived = perf_counter()
        with self._slot():
            asked = read_request(request, Mode.EXPLAIN)
            decoded = perf_counter()
            turns = Turns(self._engine, context)
            with closing(turns.steps(self._written(asked, turns))) as events:
                for event in events:
                    if isinstance(event, Text):
                        yield pb.ExplainEvent(text=event.text)
                    elif isinstance(event, GroupMap):
                        group = replies.group_mask(event.index, event.probability, self._model.threshold, request)
                        yield pb.ExplainEvent(group=group)
                    else:
                        result = event
        yield pb.ExplainEvent(result=self._reply(request, asked, result, turns, arrived, decoded))

    def _result(self, asked: Asked, turns: Turns) -> Result:
        """The result: in one job where the answer is short, for the most part proved by the pass, else in many."""
        if (asked.decoding.max_new_tokens or asked.request.mode.token_limit) <= TOKENS_A_JOB:
            return turns.take(
                lambda: self._segmenter.segment_batch(
                    [asked.image], asked.request, asked.recipe, decoding=asked.decoding, cancelled=turns.gone
                )
            )[0]
        with closing(turns.steps(self._written(asked, turns))) as events:
            return next(event for event in events if isinstance(event, Result))

    def _written(self, asked: Asked, turns: Turns) -> Generator[Event, None, None]:
        return self._segmenter.stream(
            asked.image, asked.request, asked.recipe, decoding=asked.decoding, cancelled=turns.gone
        )

    def _reply(
        self,
        request: pb.SegmentRequest,
        asked: Asked,
        result: Result,
        turns: Turns,
        arrived: float,
        decoded: float,
    ) -> pb.SegmentResponse:
        """The reply; `arrived` and `decoded` are by the performance counter."""
        decode_ms = (decoded - arrived) * 1000
        timings = {"decode": decode_ms, **{stage: ms for stage, ms in result.timings_ms.items() if stage != "decode"}}
        timings["total"] += decode_ms - result.timings_ms.get("decode", 0.0)
        encoding = perf_counter()
        reply = replies.result_reply(replace(result, timings_ms=timings), asked.recipe)
        replies.add_pictures(reply, result, self._model.threshold, request)
        reply.identity.CopyFrom(request.frame.identity)
        reply.model.CopyFrom(self._model.model)
        done = perf_counter()
        reply.timings.add(stage="queue", ms=turns.queue_ms)
        reply.timings.add(stage="encode", ms=(done - encoding) * 1000)
        reply.timings.add(stage="server", ms=(done - arrived) * 1000)
        return reply

    @contextmanager
    def _slot(self) -> Iterator[None]:
        """A place among those that are served, while the block lasts."""
        if not self._slots.acquire(blocking=False):
            raise _Overloaded(f"{MAX_WAITING} frames are waiting for the engine already; send the next after an answer")
        try:
            yield
        finally:
            self._slots.release()


def _answered(answer: Callable[[], Reply], context: grpc.ServicerContext) -> Reply:
    """The answer, or a status with one line of text for whatever went wrong."""
    try:
        return answer()
    except InputError as error:
        status, text = grpc.StatusCode.INVALID_ARGUMENT, str(error)
    except EngineError as error:
        status, text = grpc.StatusCode.INTERNAL, str(error)
    except (CancelledError, Cancelled):
        status, text = grpc.StatusCode.CANCELLED, "the caller went away before the engine was done"
    except _Overloaded as error:
        status, text = grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)
    except Exception as error:
        traceback.print_exc()
        status, text = grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}"
    context.abort(status, one_line(text))
    raise AssertionError("abort always raises")
