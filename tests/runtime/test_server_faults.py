"""Engines that fail, callers who go, and answers that take their time. All is real but what the model's words are.

The bundle's words are scripted, see `scripted_bundle`. A caller who takes his answers bit by bit holds the writing up
where it is, for as long as a test likes.
"""

from contextlib import closing

import grpc
import numpy as np
import pytest

from agvas_runtime.client import Client, ConnectionLostError
from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.maps import binarise
from agvas_runtime.modes import MAX_LOOK_CHARACTERS, Mode, Request
from agvas_runtime.prompts import MAX_INSTRUCTION_CHARACTERS
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.proto.agvas.v1 import inspection_pb2_grpc as pb_grpc
from agvas_runtime.segmenter import GroupMap, Segmenter, Text
from agvas_runtime.server import channel, service
from agvas_runtime.server.config import ServerConfig
from agvas_runtime.server.engine.dispatch import MOST_STREAMS
from agvas_runtime.server.engine.messages import Answer, Cancel, Failed, Work
from agvas_runtime.server.engine.task import FrameResult
from agvas_runtime.server.open_calls import OpenCall
from agvas_runtime.verdict import Verdict
from agvas_runtime.wire import GroupMask, SegmentReply
from tests.runtime.live_server import DEFECT, IMAGES, WAIT_S, Live, live_server, request, until
from tests.runtime.scripted_bundle import ENDLESS, FAILING, GROUPS, WRITTEN, scripted_bundle

IMAGE = IMAGES[DEFECT]
MOST_WAITING = ServerConfig().max_waiting
BIT_BY_BIT = {"grpc.http2.lookahead_bytes": 5, "grpc.http2.bdp_probe": 0}
"""With these a caller's next message comes when he asks for it, so the server stands still in between."""
ASKED = {"mode": Mode.CONVERSATION, "instruction": ENDLESS}
LONG = {"mode": pb.MODE_CONVERSATION, "instruction": ENDLESS}
"""An answer of as many tokens as the limit allows, written in turns."""
SHORT = {"mode": pb.MODE_DIRECT, "instruction": ENDLESS}
"""The same in one turn."""
TOKENS = Mode.CONVERSATION.token_limit


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return scripted_bundle(tmp_path_factory.mktemp("bundles") / "scripted")


@pytest.fixture(scope="module")
def scripted(bundle):
    """The bundle in this process."""
    return Segmenter.open(bundle, threads=1)


CANCEL = OpenCall.cancel


@pytest.fixture(scope="module")
def running(bundle):
    with live_server(bundle=bundle) as live:
        yield live


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """The server's with its callers, which would end what a test's caller was to end, is without end."""
    monkeypatch.setattr(OpenCall, "cancel", lambda call: None)


@pytest.fixture
def live(running):
    running.as_new()
    yield running
    running.as_new()
    assert places(running) == MOST_WAITING


@pytest.fixture
def talk(live, monkeypatch):
    """What the server and its engine say to each other in this test."""
    return overheard(live, monkeypatch)


@pytest.fixture
def bit_by_bit(monkeypatch):
    """Clients that are made in this test read that way."""
    options = list((dict(channel.client_options()) | BIT_BY_BIT).items())
    monkeypatch.setattr(channel, "client_options", lambda *, pings: options)


@pytest.fixture
def reader(live, bit_by_bit):
    with Client(live.address) as client:
        yield client


def overheard(live: Live, monkeypatch) -> list:
    (dispatcher,) = live.pool._dispatchers
    process, said = dispatcher.engine.process, []
    for name in ("_send", "_hear"):
        method = getattr(process, name)
        monkeypatch.setattr(process, name, lambda message, method=method: (said.append(message), method(message)))
    return said


def places(live: Live) -> int:
    """Calls that may still come."""
    return live.server._service._calls._value


def writing(live: Live) -> int:
    """Long answers that the engine has begun with."""
    return sum(dispatcher.streams for dispatcher in live.pool._dispatchers)


def idle(live: Live) -> bool:
    """The engine has said of everything it had that this is over, and no call has a place."""
    return live.arena.free_bytes == live.arena.size and places(live) == MOST_WAITING


def assert_ended_early(talk: list, count: int = 1) -> None:
    """The engine was told to end its answers, so many, and ended them before they were complete."""
    assert [message.kind for message in talk if isinstance(message, Failed)] == ["Cancelled"] * count
    assert not any(message.last for message in talk if isinstance(message, Answer))


def status_of(call) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()


# Engines that fail


def test_a_failing_graph_is_an_internal_error_of_one_line_and_the_engine_lives_on(live):
    before, expected = live.pid, live.inspection.Segment(request())
    code, text = status_of(lambda: live.inspection.Segment(request(instruction=FAILING)))
    assert code is grpc.StatusCode.INTERNAL
    assert text.startswith("graph decode: ")
    assert "indices element out of data bounds" in text
    assert "\n" not in text
    with Client(live.address) as client, pytest.raises(EngineError, match=r"graph decode: .* out of data bounds"):
        client.segment(IMAGE, FAILING)
    assert live.inspection.Segment(request()).mask == expected.mask
    assert live.pid == before


def test_an_unforeseen_fault_is_an_internal_error_without_its_text_and_the_server_lives_on(live, monkeypatch, caplog):
    def fault(*args: object) -> None:
        raise ZeroDivisionError("oh")

    for name in ("result_message", "message_of"):
        monkeypatch.setattr(service, name, fault)
    for call in (live.inspection.Segment, lambda asked: list(live.inspection.Explain(asked))) * 2:
        caplog.clear()
        assert status_of(lambda call=call: call(request())) == (grpc.StatusCode.INTERNAL, "ZeroDivisionError")
        (record,) = (record for record in caplog.records if record.name == "agvas.guard")
        assert record.exc_info[0] is ZeroDivisionError
    monkeypatch.undo()
    assert live.inspection.Segment(request()).status == pb.FRAME_STATUS_OK


def test_what_the_segmenter_refuses_is_the_caller_s_fault(live, talk):
    look, instruction = "n" * MAX_LOOK_CHARACTERS, "i" * (MAX_INSTRUCTION_CHARACTERS - MAX_LOOK_CHARACTERS - 1)
    asked = request(mode=pb.MODE_DESCRIBE_PLUS, normal_look=look, instruction=instruction)
    for call in (live.inspection.Segment, lambda asked: next(live.inspection.Explain(asked))):
        code, text = status_of(lambda call=call: call(asked))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert text == "normal_look and instruction: found 501 characters together, expected at most 500"
        assert talk[-1].kind == "InputError"


def test_a_graph_that_fails_in_the_midst_of_an_answer_comes_behind_its_beginning(live):
    with Client(live.address) as client:
        events = client.explain(IMAGE, FAILING, mode=Mode.CONVERSATION)
        assert all(isinstance(next(events), str) for _ in range(WRITTEN))
        with pytest.raises(EngineError, match="graph decode: ") as caught:
            next(events)
    assert type(caught.value) is EngineError


def test_an_input_error_in_the_midst_of_an_answer_comes_behind_its_beginning(live, monkeypatch):
    def stream(*args: object):
        """In for the pool's: a real one knows before it begins."""
        yield Text("It")
        raise InputError("x")

    monkeypatch.setattr(live.pool, "stream", stream)
    with Client(live.address) as client:
        events = client.explain(IMAGE)
        assert next(events) == "It"
        with pytest.raises(InputError, match="x"):
            next(events)


# Several groups of anchors


def test_several_groups_of_anchors_give_several_masks(live, scripted):
    *expected, result = scripted.stream(IMAGE, Request(Mode.EXPLAIN, GROUPS))
    maps = [event.probability for event in expected if isinstance(event, GroupMap)]
    assert len(maps) == len(result.group_maps) == 2
    with Client(live.address) as client:
        *events, reply = client.explain(IMAGE, GROUPS, probability="png16")
        again = client.segment(IMAGE, GROUPS, mode=Mode.EXPLAIN, mask="png", probability="float32")
    groups = [event for event in events if isinstance(event, GroupMask)]
    for found in (groups, reply.groups, again.groups):
        assert [group.index for group in found] == [0, 1]
        for group, probability in zip(found, maps, strict=True):
            assert np.array_equal(group.mask, binarise(probability, 0.5))
            assert np.abs(group.probability - probability).max() < 1e-4
    assert np.array_equal(reply.mask, result.mask)
    assert np.array_equal(reply.mask, groups[0].mask | groups[1].mask)
    types = {Text: str, GroupMap: GroupMask}
    assert [type(event) for event in events] == [types[type(event)] for event in expected]
    assert "".join(event for event in events if isinstance(event, str)) == result.answer == reply.answer


def test_several_groups_of_anchors_of_an_answer_in_one_turn_give_several_masks(live, scripted):
    result = scripted.segment(IMAGE, GROUPS)
    with Client(live.address) as client:
        reply = client.segment(IMAGE, GROUPS, probability="float32")
    assert len(reply.groups) == len(result.group_maps) == 2
    for group, probability in zip(reply.groups, result.group_maps, strict=True):
        assert np.array_equal(group.probability, probability)
        assert np.array_equal(group.mask, binarise(probability, 0.5))
    assert np.array_equal(reply.mask, result.mask)


# Answers that take their time, and other callers' frames


def test_a_frame_is_answered_while_an_explanation_is_being_written(live, reader):
    with closing(reader.explain(IMAGE, **ASKED)) as events:
        begun = next(events)
        assert reader.segment(IMAGE).verdict is Verdict.REJECT
        assert writing(live) == 1
        *rest, last = events
    assert isinstance(last, SegmentReply)
    assert last.tokens == TOKENS
    assert "".join([begun, *rest]) == last.answer


def test_a_frame_is_answered_while_another_s_long_answer_is_being_written(live, talk):
    with live.frozen():
        long = live.inspection.Segment.future(request(**LONG))
        until(lambda: writing(live) == 1)
        frame = live.inspection.Segment.future(request())
        until(lambda: live.waiting == 0 and len([message for message in talk if isinstance(message, Work)]) == 2)
    assert frame.result(WAIT_S).verdict == pb.VERDICT_REJECT
    assert long.result(WAIT_S).tokens == TOKENS
    answers = [message.value for message in talk if isinstance(message, Answer)]
    (place,) = (place for place, value in enumerate(answers) if isinstance(value, list))
    assert place <= 2  # it waited for a token or two
    assert isinstance(answers[-1], FrameResult)
    assert len(answers) > TOKENS / 2


def test_explanations_take_places_like_frames_and_one_more_is_refused(live, reader, talk):
    written = [reader.explain(IMAGE, **ASKED) for _ in range(MOST_STREAMS)]
    for events in written:
        next(events)
    waiting = [live.inspection.Explain(request(**LONG)) for _ in range(MOST_WAITING - MOST_STREAMS)]
    until(lambda: places(live) == 0)
    for call in (reader.segment, lambda image: next(reader.explain(image))):
        with pytest.raises(EngineError, match=f"{MOST_WAITING} frames are waiting"):
            call(IMAGE)
    for call in waiting:
        call.cancel()
    until(lambda: places(live) == MOST_WAITING - MOST_STREAMS)
    for events in written:
        events.close()
    until(lambda: idle(live))
    assert_ended_early(talk, MOST_STREAMS)  # and never had the others


def test_a_reader_that_takes_nothing_blocks_nobody_and_is_cancelled(live, talk, monkeypatch):
    monkeypatch.setattr(OpenCall, "cancel", CANCEL)
    monkeypatch.setattr(live.server._guard.open, "_take_s", 0.3)
    with grpc.insecure_channel(live.address, options=list(BIT_BY_BIT.items())) as slow:
        events = pb_grpc.InspectionStub(slow).Explain(request(**LONG))
        assert next(events).text
        with Client(live.address) as other:
            assert other.segment(IMAGE).verdict is Verdict.REJECT
        until(lambda: idle(live))
        assert [message.kind for message in talk if isinstance(message, Failed)] == ["Cancelled"]
        code, _ = status_of(lambda: list(events))
    assert code is grpc.StatusCode.CANCELLED


# Callers who go


def test_closing_the_iterator_ends_the_writing_and_frees_its_place(live, reader, talk):
    for count in range(1, 4):
        with closing(reader.explain(IMAGE, **ASKED)) as events:
            next(events)
            assert places(live) == MOST_WAITING - 1
        until(lambda: idle(live))
        assert_ended_early(talk, count)


def test_a_deadline_that_passes_ends_the_writing(live, reader, talk):
    events = reader.explain(IMAGE, **ASKED, timeout_s=1.0)
    with pytest.raises(ConnectionLostError, match=r"127\.0\.0\.1:\d+: .*Deadline Exceeded"):
        [until(lambda: idle(live)) for _ in events]  # behind the first one nobody reads on
    assert_ended_early(talk)


def test_a_client_that_goes_away_ends_the_writing(live, bit_by_bit, talk):
    with Client(live.address) as other:
        events = other.explain(IMAGE, **ASKED)
        next(events)
    until(lambda: idle(live))
    assert_ended_early(talk)


@pytest.mark.parametrize("asked", [LONG, SHORT], ids=["long", "short"])
def test_a_client_that_goes_away_ends_the_writing_of_a_plain_answer(live, talk, asked):
    with live.frozen():
        call = live.inspection.Segment.future(request(**asked))
        until(lambda: any(isinstance(message, Work) for message in talk))
        call.cancel()
        until(lambda: any(isinstance(message, Cancel) for message in talk))
    until(lambda: idle(live))
    assert_ended_early(talk)


def test_a_server_that_stops_ends_the_writing(bundle, bit_by_bit, monkeypatch):
    with live_server(bundle=bundle, drain_s=0) as live:
        talk = overheard(live, monkeypatch)
        client = Client(live.address)
        events = client.explain(IMAGE, **ASKED)
        next(events)
    assert not any(message.last for message in talk if isinstance(message, Answer))
    with client, pytest.raises(ConnectionLostError):
        list(events)
