"""`Inspect` with LATEST while an engine stands still: what it gets next is the newest frame, however long it stood."""

import time

import numpy as np
import pytest

from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.server import streams
from tests.runtime.live_server import live_server, request, until

LARGE = np.zeros((1000, 1000, 3), np.uint8)
"""With its mask and map an eighth of the server's memory; a stream may have a quarter."""


@pytest.fixture(scope="module")
def running():
    with live_server(max_megapixels=1, max_memory_mb=64) as live:
        yield live


@pytest.fixture
def live(running):
    running.as_new()
    yield running
    running.as_new()


def statuses(answers):
    return [pb.FrameStatus.Name(answer.status).removeprefix("FRAME_STATUS_") for answer in answers]


def test_frames_go_on_giving_way_behind_one_that_takes_long(live):
    count = 4 * streams.MOST_UNTAKEN
    stream = live.open()
    with live.frozen():
        stream.send(request())
        until(lambda: live.accepted == 1 and live.waiting == 0)
        stream.send(*[request()] * count)
        until(lambda: len(live.places()) == count + 1)
    assert statuses(stream.answers(count + 1)) == ["OK", *["DROPPED"] * (count - 1), "OK"]


def test_a_frame_that_will_give_way_does_not_keep_the_next_from_being_read(live):
    stream = live.open()
    with live.frozen():
        stream.send(request(LARGE))
        until(lambda: live.accepted == 1 and live.waiting == 0)
        stream.send(*[request(LARGE)] * 5)
        until(lambda: len(live.places()) == 6)
        assert live.arena.size - live.arena.free_bytes <= streams.MOST_SHARE * live.arena.size
    assert statuses(stream.answers(6)) == ["OK", *["DROPPED"] * 4, "OK"]


def test_the_deadline_runs_while_a_frame_waits_for_its_share_of_the_memory(live, monkeypatch):
    monkeypatch.setattr(streams, "MOST_SHARE", 0.1)  # less than two frames
    stream = live.open()
    with live.frozen():
        stream.send(request(LARGE))
        until(lambda: live.accepted == 1 and live.waiting == 0)
        stream.send(request(LARGE, deadline_ms=200))
        time.sleep(0.5)
        assert len(live.places()) == 1  # the other one is not read to its end
    first, second = stream.answers(2)
    assert statuses([first, second]) == ["OK", "EXPIRED"]
    assert next(timing.ms for timing in second.timings if timing.stage == "server") >= 200


def test_the_line_behind_a_frame_that_takes_long_is_bounded(live, monkeypatch):
    monkeypatch.setattr(streams, "MOST_DROPPED", 100)
    stream = live.open()
    with live.frozen():
        stream.send(*[request()] * 300)
        until(lambda: len(live.places()) == 100)
        time.sleep(0.2)
        assert len(live.places()) == 100
    assert len(stream.answers(300)) == 300
