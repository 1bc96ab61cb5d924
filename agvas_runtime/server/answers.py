"""From an engine's answer to the message of its frame: pictures as asked for, and the time of every stage."""

from __future__ import annotations

from concurrent.futures import Future
from time import perf_counter

from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.server import replies
from agvas_runtime.server.engine.arena import ArenaFull, Block
from agvas_runtime.server.engine.task import EngineFacts, FrameResult
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
    block, queue_ms = answered.block, answered.queue_ms
    return message_of(answered.result, block, answered.facts, settings, arrived, decode_ms, queue_ms)


def message_of(
    result: FrameResult,
    block: Block,
    facts: EngineFacts,
    settings: Settings,
    arrived: float,
    decode_ms: float,
    queue_ms: float,
) -> pb.SegmentResponse:
    """The same from the parts of an answer."""
    encoding = perf_counter()
    reply: pb.SegmentResponse = pb.SegmentResponse.FromString(result.reply)
    for timing in reply.timings:
        if timing.stage in ("decode", "total"):  # the engine gets its frames decoded
            timing.ms += decode_ms
    replies.add_pictures(reply, block.mask, block.probability, settings.message)
    groups = enumerate(result.group_maps)
    reply.groups.extend(replies.group_mask(i, each, result.threshold, settings.message) for i, each in groups)
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
