"""What a gate keeps of its parts, and how it decides where the server says what it does not know."""

import weakref

import numpy as np
import pytest

from agvas_runtime import console
from agvas_runtime.camera.connection import Session
from agvas_runtime.camera.gate import MOST_IMAGES, Gate
from agvas_runtime.camera.source import Captured
from agvas_runtime.camera.watch import Board, summary_line
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.verdict import Verdict
from tests.runtime.camera_line import Scripted, running
from tests.runtime.live_server import IMAGES
from tests.runtime.scripted_inspection import serving

FRAME = IMAGES[0]


@pytest.fixture
def decisions():
    return []


@pytest.fixture
def gate(decisions):
    return Gate("left", 1.0, "stop", decisions.append, keep_images=True)


def test_a_part_keeps_its_frame_however_many_newer_ones_are_decided_before_it(gate, decisions):
    first = gate.admit(Captured(FRAME))
    for _ in range(2 * MOST_IMAGES):
        gate.no_answer(gate.admit(Captured(FRAME)), "dropped", "gave way")
    gate.no_answer(first, "timed_out", "too late")
    assert decisions[-1].image is FRAME


def test_of_parts_that_were_sent_no_more_frames_are_in_memory_than_pictures_may_need(gate):
    session = Session(None, gate, 1.0)
    images = [np.zeros((8, 8), np.uint8) for _ in range(MOST_IMAGES + 3)]
    kept = [weakref.ref(image) for image in images]
    while images:
        session.offer(gate.admit(Captured(images.pop(0))), latest=False)
    session.finish()
    assert sum(1 for _ in session.frames()) == gate.waiting == MOST_IMAGES + 3
    assert [image() is None for image in kept] == [True] * 3 + [False] * MOST_IMAGES


@pytest.mark.parametrize("new", [("verdict",), ("gate",), ("status",), ("verdict", "gate", "status")])
def test_what_only_a_newer_server_knows_is_decided_by_the_line_s_own_rule_and_shown(capsys, new):
    said = {
        "verdict": pb.VERDICT_PASS,
        "gate": pb.GATE_PASS,
        "status": pb.FRAME_STATUS_OK,
        **dict.fromkeys(new, 99),
    }

    def of_a_newer_server(messages, context):
        for index, message in enumerate(messages):
            yield pb.SegmentResponse(index=index, identity=message.frame.frame.identity, **said)

    with (
        serving(of_a_newer_server) as (address, _),
        running(Scripted([Captured(FRAME)]), address, on_no_answer="stop") as line,
    ):
        (decision,) = line.finish()
    assert (decision.gate, decision.verdict, decision.status) == ("stop", Verdict.NO_ANSWER, "unknown")
    board = Board([line.line])
    board.add(decision)
    console.output().print(board)
    assert "stop (unknown)" in capsys.readouterr().out
    assert summary_line(line.line).startswith("line-1: 1 parts: 1 stop; without a result: 1 unknown")
