"""From an engine's answer to the message of its frame: pictures as asked for, and the time of every stage."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace
from time import perf_counter

from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.result import Result
from agvas_runtime.server import replies
from agvas_runtime.server.engine.arena import ArenaFull
from agvas_runtime.server.engine.task import EngineFacts
from agvas_runtime.server.lanes import Answered, Fate, NoResult
from agvas_runtime.server.requests import Settings
from agvas_runtime.server.statuses import TooMuch

_OF_FATE = {
    Fate.DROPPED: pb.FRAME_STATUS_DROPPED,
    Fate.EXPIRED: pb.FRAME_STATUS_EXPIRED,
    Fate.ENGINE_FAILED: pb.FRAME_STATUS_ENGINE_FAILED,
    Fate.REFUSED: pb.FRAME_STATUS_REFUSED,
    Fate.CANCELLED: pb.FRAME_STATUS_REFUSED,
}


def result_message(answered: Answered, settings: Settings, arrived: float, decode_ms: float) -> pb.SegmentResponse:
    """The message, but for the frame's identity; `arrived` is by the performance counter."""
    return message_of(answered.result, answered.facts, settings, arrived, decode_ms, answered.queue_ms)


def message_of(
    result: Result, facts: EngineFacts, settings: Settings, arrived: float, decode_ms: float, queue_ms: float
) -> pb.SegmentResponse:
    """The same from the parts of an answer."""
    encoding = perf_counter()
    timings = {"decode": decode_ms, **{stage: ms for stage, ms in result.timings_ms.items() if stage != "decode"}}
    timings["total"] += decode_ms - result.timings_ms.get("decode", 0.0)
    reply = replies.result_reply(replace(result, timings_ms=timings), settings.task.recipe)
    replies.add_pictures(reply, result, settings.message)
    reply.recipe_name = settings.recipe_name
    reply.model.name, reply.model.bundle_sha256 = facts.name, facts.bundle_sha256
    done = perf_counter()
    reply.timings.add(stage="queue", ms=queue_ms)
    reply.timings.add(stage="encode", ms=(done - encoding) * 1000)
    reply.timings.add(stage="server", ms=(done - arrived) * 1000)
    return reply


def failure_message(error: Exception, on_no_answer: str, arrived: float) -> pb.SegmentResponse:
    """The message of a frame that has no result because of this, but for the frame's identity.

    Raises the error again where nobody foresaw it.
    """
    if isinstance(error, NoResult):
        status = _OF_FATE[error.fate]
    elif isinstance(error, InputError):
        status = pb.FRAME_STATUS_INVALID
    elif isinstance(error, ArenaFull | TooMuch):
        status = pb.FRAME_STATUS_DROPPED
    elif isinstance(error, EngineError):
        status = pb.FRAME_STATUS_ENGINE_FAILED
    else:
        raise error
    reply = replies.no_result_reply(status, str(error), on_no_answer)
    reply.timings.add(stage="server", ms=(perf_counter() - arrived) * 1000)
    return reply


def free_unread(outcome: Future[Answered]) -> None:
    """Release the frame of an answer that nobody takes; for `add_done_callback`."""
    if outcome.exception() is None:
        outcome.result().block.release()
