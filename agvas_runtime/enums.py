"""The protocol's enums in words. A newer server may send values that are not here: they are no answer."""

from __future__ import annotations

from typing import Any, Literal

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.result import AnswerKind
from agvas_runtime.verdict import Verdict

FrameStatus = Literal["ok", "dropped", "expired", "invalid", "engine_failed", "refused", "unknown"]
GateAction = Literal["pass", "reject", "stop"]


def _names(kind: EnumTypeWrapper, prefix: str) -> dict[int, str]:
    return {number: name.removeprefix(prefix) for name, number in kind.items() if number}


_VERDICTS = {number: Verdict[name] for number, name in _names(pb.Verdict, "VERDICT_").items()}
_ANSWER_KINDS = {number: AnswerKind[name] for number, name in _names(pb.AnswerKind, "ANSWER_KIND_").items()}
_GATES: dict[int, Any] = {number: name.lower() for number, name in _names(pb.Gate, "GATE_").items()}
_STATUSES: dict[int, Any] = {number: name.lower() for number, name in _names(pb.FrameStatus, "FRAME_STATUS_").items()}
"""What is here for the protocol's numbers: asking protobuf for a name costs every reply some hundredths of a ms."""


def status_of(number: int) -> FrameStatus:
    """What became of a frame: "unknown" for a number that is not here, "ok" for a message that says nothing, 0."""
    status: FrameStatus = _STATUSES.get(number or pb.FRAME_STATUS_OK, "unknown")
    return status


def gate_of(number: int) -> GateAction | None:
    """What the gate does; None for a number that is not here, or none, 0."""
    return _GATES.get(number)


def answer_kind_of(number: int) -> AnswerKind:
    """What the model's text is: OTHER for a number that is not here, or none, 0."""
    return _ANSWER_KINDS.get(number, AnswerKind.OTHER)


def verified_of(number: int) -> Literal["answer", "anchors"]:
    """How far the answer was read: to its end where the message says nothing, 0; "anchors", which promises less, for a
    number that is not here."""
    return "answer" if number in (pb.VERIFIED_UNSPECIFIED, pb.VERIFIED_ANSWER) else "anchors"


def decision_of(reply: pb.SegmentResponse) -> tuple[Verdict, GateAction | None, str]:
    """Verdict, gate and reason of a reply.

    NO_ANSWER and no gate where its status, verdict or gate is none that is here; the reason then names what was found.
    """
    verdict, gate = _VERDICTS.get(reply.verdict), gate_of(reply.gate)
    if verdict is not None and gate is not None and status_of(reply.status) != "unknown":
        return verdict, gate, reply.reason
    found = f"found status {reply.status}, verdict {reply.verdict}, gate {reply.gate}"
    told = f"; the server's reason: {reply.reason}" if reply.reason else ""
    return Verdict.NO_ANSWER, None, f"{found}, expected values that this client knows{told}"
