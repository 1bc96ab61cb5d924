"""`Inspect`: exactly one answer a frame, in order, whatever happens; and nobody suffers from another one's stream."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from time import monotonic, sleep

import grpc
import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.server import replies, streams
from agvas_runtime.verdict import Recipe
from agvas_runtime.wire import reply_from
from tests.runtime.live_server import DEFECT, IMAGES, NORMAL, WAIT_S, live_server, request, until

MOST_STREAMS = 6
STOP, PASS = pb.Recipe(on_no_answer=pb.NO_ANSWER_ACTION_STOP), pb.Recipe(on_no_answer=pb.NO_ANSWER_ACTION_PASS)
INSPECT = "/agvas.v1.Inspection/Inspect"
RECIPES = {
    "default": "min_area_px: 101\non_no_answer: pass",
    "camera-7": "min_area_px: 107\nmin_score: 0.1",
    "bolt": "min_area_px: 103\nmin_score: 0.3\non_no_answer: stop",
}
LARGE = np.tile(IMAGES[DEFECT], (7, 6, 1))
"""Its map is 1.8 MB as float32."""


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    recipes = tmp_path_factory.mktemp("recipes")
    for name, text in RECIPES.items():
        (recipes / f"{name}.yaml").write_text(text)
    with live_server(recipes=recipes, max_streams=MOST_STREAMS, max_megapixels=1, max_memory_mb=64) as live:
        yield live


@pytest.fixture
def live(running):
    running.as_new()
    yield running
    running.as_new()


def opening(**fields) -> pb.InspectRequest:
    return pb.InspectRequest(open=pb.CameraStream(**fields))


def assert_no_result(answer: pb.SegmentResponse, status: int, reason: str, gate: int = pb.GATE_STOP) -> None:
    assert (answer.status, answer.verdict, answer.gate) == (status, pb.VERDICT_NO_ANSWER, gate), answer
    assert reason in answer.reason
    assert "\n" not in answer.reason
    assert not answer.HasField("mask")


def statuses(answers: list[pb.SegmentResponse]) -> list[str]:
    return [pb.FrameStatus.Name(answer.status).removeprefix("FRAME_STATUS_") for answer in answers]


# Opening


def test_a_heartbeat_comes_at_once_and_the_next_ones_at_the_interval_that_was_asked_for(live):
    began = monotonic()
    slow, fast, silent = live.open(), live.open(heartbeat_ms=100), live.open(heartbeat_ms=60_000)
    beats = []
    reader = threading.Thread(target=lambda: beats.extend(fast.call))
    assert silent.heartbeat().serving
    assert fast.heartbeat() == pb.Heartbeat(serving=True)
    reader.start()
    for _ in range(2):
        slow.heartbeat()
    assert monotonic() - began > 0.9  # one at once, the other after a second
    assert len(beats) >= 3
    silent.send(request())
    assert next(silent.call).WhichOneof("event") == "answer"
    fast.finish()
    reader.join(WAIT_S)


def test_heartbeats_go_on_while_no_answer_comes_and_say_how_many_frames_wait(live):
    with live.frozen():
        stream = live.open(heartbeat_ms=100, policy=pb.QUEUE_POLICY_BLOCK)
        stream.send(*[request()] * 3)
        while (beat := stream.heartbeat()).waiting < 3:
            assert beat.serving
    assert statuses(stream.answers(3)) == ["OK"] * 3


@pytest.mark.parametrize(
    ("first", "text"),
    [
        (pb.InspectRequest(), "event: the first message of a stream opens it: found nothing, expected open"),
        (pb.InspectRequest(frame=request()), "event: the first message of a stream opens it: found frame"),
        (opening(camera_id="x" * 257), "open.camera_id: found 257 characters, expected at most 256"),
        (opening(policy=9), "open.policy: found 9, expected LATEST or BLOCK"),
        (opening(queue=0), "open.queue: found 0, expected 1 to 64"),
        (opening(queue=65), "open.queue: found 65"),
        (opening(heartbeat_ms=99), "open.heartbeat_ms: found 99, expected 100 to 60000"),
        (opening(heartbeat_ms=60_001), "open.heartbeat_ms: found 60001"),
        (opening(defaults=request()), "open.defaults.frame: found a frame, expected none"),
        (opening(defaults=pb.SegmentRequest(mask_format=9)), "mask_format: found 9"),
        (opening(defaults=pb.SegmentRequest(deadline_ms=0)), "deadline_ms: found 0"),
        (opening(defaults=pb.SegmentRequest(mode=pb.MODE_CONVERSATION)), "mode conversation needs instruction"),
        (opening(defaults=pb.SegmentRequest(recipe=pb.Recipe(min_score=2))), "recipe.min_score: found 2.0"),
        (opening(defaults=pb.SegmentRequest(recipe_name="nut")), "recipe_name: found 'nut', expected bolt, camera-7"),
    ],
)
def test_a_wrong_opening_is_an_invalid_argument_that_names_the_field(live, first, text):
    stream = live.open(first)
    assert stream.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert text in stream.call.details()


def test_a_stream_without_any_message_and_one_that_opens_with_garbage_say_what_was_expected(live):
    call = live.channel.stream_stream(INSPECT)
    for messages, text in (((), "found nothing, expected open"), ((b"\xff",), "message: found 1 bytes that are no")):
        with pytest.raises(grpc.RpcError) as caught:
            list(call(iter(messages), timeout=WAIT_S))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert text in caught.value.details()


def test_one_stream_more_than_there_may_be_is_refused_and_those_that_ended_leave_their_places(live):
    opened = [live.open() for _ in range(MOST_STREAMS)]
    for stream in opened:
        stream.heartbeat()
    refused = live.open()
    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.call.details() == f"{MOST_STREAMS} streams are open already; close one first"
    for number, stream in enumerate(opened):
        stream.close() if number % 2 else stream.finish()
    until(lambda: live.server._service.open_streams == 0)
    for _ in range(2 * MOST_STREAMS):  # wrong ones leave theirs, too
        assert live.open(opening(queue=0)).code() is grpc.StatusCode.INVALID_ARGUMENT
    assert live.open().heartbeat().serving


# Answers


def test_answers_are_the_segmenter_s_in_the_order_of_the_frames(live, segmenter):
    stream = live.open(policy=pb.QUEUE_POLICY_BLOCK)
    numbers = [number % len(IMAGES) for number in range(12)]
    stream.send(*[request(number, probability_format=pb.PROBABILITY_FORMAT_FLOAT32) for number in numbers])
    stream.finish()
    answers = stream.answers()
    assert stream.code() is grpc.StatusCode.OK
    assert [answer.index for answer in answers] == list(range(12))
    for number, answer in zip(numbers, answers, strict=True):
        result = segmenter.segment(IMAGES[number], recipe=Recipe(min_area_px=101))
        reply = reply_from(answer, 0.0)
        assert (reply.verdict, reply.reason, reply.answer) == (result.verdict, result.reason, result.answer)
        assert np.array_equal(reply.mask, result.mask)
        assert np.array_equal(reply.probability, result.probability)
        assert {"queue", "decode", "encode", "server", "total"} <= {timing.stage for timing in answer.timings}


def test_what_a_frame_says_of_itself_comes_back_and_its_camera_is_the_stream_s_where_it_says_none(live):
    whole = pb.FrameIdentity(
        camera_id="another",
        part_id="p 1",
        trigger_id="t",
        sequence=0,
        encoder_count=-5,
        capture_time=Timestamp(seconds=1, nanos=2),
    )
    stream = live.open(camera_id="line 3")
    stream.send(request(identity=whole))
    (answer,) = stream.answers(1)
    assert answer.identity == whole
    stream.send(request(identity=pb.FrameIdentity(part_id="p 2")))
    (answer,) = stream.answers(1)
    assert answer.identity == pb.FrameIdentity(camera_id="line 3", part_id="p 2")
    stream.send(pb.SegmentRequest(frame=pb.Frame(identity=pb.FrameIdentity(trigger_id="no image"))))
    (answer,) = stream.answers(1)
    assert answer.identity == pb.FrameIdentity(camera_id="line 3", trigger_id="no image")
    assert answer.status == pb.FRAME_STATUS_INVALID


@pytest.mark.parametrize("field", ["camera_id", "part_id", "trigger_id"])
def test_an_id_that_is_too_long_and_what_is_no_field_do_not_come_back(live, field):
    """Each is copied into every place and answer."""
    kept = pb.FrameIdentity(part_id="ä" * 256, trigger_id="t" * 256, sequence=3)
    nothing = b"\xba\x3e\x80\x80\x40" + bytes(1 << 20)  # field 999
    stream = live.open()
    stream.send(request(identity=pb.FrameIdentity.FromString(kept.SerializeToString() + nothing)))
    (answer,) = stream.answers(1)
    kept.camera_id = "camera"
    assert (answer.status, answer.identity) == (pb.FRAME_STATUS_OK, kept)
    assert answer.identity.ByteSize() == kept.ByteSize()
    long = pb.FrameIdentity(**{"sequence": 4, field: "x" * 257})
    stream.send(request(identity=long))
    (answer,) = stream.answers(1)
    assert_no_result(
        answer,
        pb.FRAME_STATUS_INVALID,
        f"frame.identity.{field}: found 257 characters, expected at most 256",
        pb.GATE_PASS,
    )
    assert answer.identity == pb.FrameIdentity(camera_id="camera", sequence=4)


def test_a_camera_is_told_as_connected_while_its_stream_is_open(live):
    def connected() -> bool:
        return {state.camera_id: state.connected for state in live.server.statistics().cameras}.get("watched", False)

    stream = live.open(camera_id="watched")
    stream.heartbeat()
    assert connected()
    stream.close()
    until(lambda: not connected())


@pytest.mark.parametrize(
    ("camera", "defaults", "asked", "taken", "rule"),
    [
        ("x", {}, {}, "default", (101, 0)),
        ("camera-7", {}, {}, "camera-7", (107, 0.1)),
        ("camera-7", {"recipe_name": "bolt"}, {}, "bolt", (103, 0.3)),
        ("camera-7", {"recipe_name": "bolt"}, {"recipe_name": "default"}, "default", (101, 0)),
        ("x", {"recipe": pb.Recipe(min_score=0.6)}, {}, "default", (101, 0.6)),
        ("x", {"recipe_name": "bolt", "recipe": pb.Recipe(min_score=0.6)}, {}, "bolt", (103, 0.6)),
        ("x", {"recipe": pb.Recipe(min_score=0.6)}, {"recipe": pb.Recipe(min_score=0.7)}, "default", (101, 0.7)),
        ("x", {"recipe_name": "bolt"}, {"recipe": pb.Recipe(min_area_px=1, min_score=0)}, "bolt", (1, 0)),
    ],
)
def test_a_frame_s_own_settings_precede_the_stream_s_and_these_the_recipe_s(live, camera, defaults, asked, taken, rule):
    stream = live.open(camera_id=camera, defaults=pb.SegmentRequest(**defaults))
    stream.send(request(**asked))
    (answer,) = stream.answers(1)
    assert answer.recipe_name == taken
    assert f"(at least {rule[0]} px, mean score at least {rule[1]:g})" in answer.reason


def test_the_camera_of_a_frame_chooses_the_recipe_not_that_of_the_stream(live):
    stream = live.open(camera_id="x")
    stream.send(request(identity=pb.FrameIdentity(camera_id="camera-7")), request())
    assert [answer.recipe_name for answer in stream.answers(2)] == ["camera-7", "default"]


# Frames without a result


def test_a_wrong_frame_is_told_with_its_field_and_the_next_one_answered(live):
    wrong = {
        "frame.content: found nothing, expected raw or encoded": pb.SegmentRequest(),
        "frame.encoded: not an image file": pb.SegmentRequest(frame=pb.Frame(encoded=b"nothing")),
        "frame.raw.data: found 1 bytes": pb.SegmentRequest(
            frame=pb.Frame(raw=pb.RawImage(pixel_format=5, width=3, height=3, data=b"1"))
        ),
        "frame.raw: found 1000 x 1001 pixels, expected at most 1 megapixels": request(
            np.zeros((1001, 1000, 3), np.uint8)
        ),
        "mask_format: found 99": request(mask_format=99),
        "recipe.threshold: found nan": request(recipe=pb.Recipe(threshold=float("nan"))),
        "deadline_ms: found -1": request(deadline_ms=-1),
        "recipe_name: found 'nut'": request(recipe_name="nut"),
        "roi": request(recipe=pb.Recipe(roi=pb.Box(x0=500, y0=500, x1=600, y1=600))),
        "frame.identity.camera_id: found 257 characters, expected at most 256": request(
            identity=pb.FrameIdentity(camera_id="x" * 257)
        ),
    }
    stream = live.open(policy=pb.QUEUE_POLICY_BLOCK, defaults=pb.SegmentRequest(recipe=STOP))
    for each in wrong.values():
        stream.send(each, request())
    answers = stream.answers(2 * len(wrong))
    assert [answer.index for answer in answers] == list(range(2 * len(wrong)))
    assert statuses(answers[1::2]) == ["OK"] * len(wrong)
    for reason, answer in zip(wrong, answers[::2], strict=True):
        assert_no_result(answer, pb.FRAME_STATUS_INVALID, reason)


def test_a_stream_that_is_opened_twice_goes_on_and_so_does_one_with_a_message_that_is_none(live):
    messages = [
        opening(
            camera_id="c", policy=pb.QUEUE_POLICY_BLOCK, defaults=pb.SegmentRequest(recipe=STOP)
        ).SerializeToString(),
        opening(camera_id="d", policy=9).SerializeToString(),
        b"",
        b"\xff\xff",
        pb.InspectRequest(frame=request()).SerializeToString(),
    ]
    events = [pb.InspectResponse.FromString(data) for data in live.channel.stream_stream(INSPECT)(iter(messages))]
    answers = [event.answer for event in events if event.HasField("answer")]
    assert_no_result(answers[0], pb.FRAME_STATUS_INVALID, "event: found open, expected frame")
    assert_no_result(answers[1], pb.FRAME_STATUS_INVALID, "event: found nothing, expected frame")
    assert_no_result(answers[2], pb.FRAME_STATUS_INVALID, "message: found 2 bytes that are no InspectRequest")
    assert statuses(answers) == ["INVALID", "INVALID", "INVALID", "OK"]
    assert {answer.identity.camera_id for answer in answers} == {"c"}


def test_a_mask_of_too_many_corners_is_not_written_as_polygons(live, monkeypatch):
    monkeypatch.setattr(replies, "MOST_CORNERS", 3)
    stream = live.open(defaults=pb.SegmentRequest(recipe=STOP))
    stream.send(request(mask_format=pb.MASK_FORMAT_POLYGONS))
    assert_no_result(stream.answers(1)[0], pb.FRAME_STATUS_INVALID, "mask_format: found POLYGONS for a mask of")
    stream.send(request())
    assert statuses(stream.answers(1)) == ["OK"]


def test_with_latest_the_oldest_frame_that_waits_makes_room(live):
    stream = live.open(queue=2, defaults=pb.SegmentRequest(recipe=STOP))
    with live.frozen():
        stream.send(request())
        until(lambda: live.accepted == 1 and live.waiting == 0)
        stream.send(request(), request(recipe=PASS), request(NORMAL), request())
        until(lambda: [place.done() for place in live.places()] == [False, True, True, False, False])
    answers = stream.answers(5)
    assert statuses(answers) == ["OK", "DROPPED", "DROPPED", "OK", "OK"]
    assert [answer.index for answer in answers] == list(range(5))
    assert_no_result(answers[1], pb.FRAME_STATUS_DROPPED, "a newer frame of this camera took its place")
    assert_no_result(answers[2], pb.FRAME_STATUS_DROPPED, "a newer frame", pb.GATE_PASS)
    assert len(live.computed) == 3


def test_a_frame_whose_deadline_passed_is_expired_and_costs_no_computing(live):
    stream = live.open(policy=pb.QUEUE_POLICY_BLOCK, defaults=pb.SegmentRequest(recipe=STOP, deadline_ms=60))
    with live.frozen():
        stream.send(request(deadline_ms=60_000))
        until(lambda: live.accepted == 1 and live.waiting == 0)
        stream.send(request(), request(deadline_ms=60_000))
        until(lambda: [place.done() for place in live.places()] == [False, True, False])
    answers = stream.answers(3)
    assert statuses(answers) == ["OK", "EXPIRED", "OK"]
    assert_no_result(answers[1], pb.FRAME_STATUS_EXPIRED, "the deadline of 60 ms passed before an engine was free")
    assert len(live.computed) == 2


def test_a_frame_is_retried_when_its_engine_dies_and_given_up_when_the_next_one_does(live, monkeypatch):
    """The engine that comes next stands still as soon as it is ready: it has the retried frame then, and no other."""
    stream = live.open(policy=pb.QUEUE_POLICY_BLOCK, defaults=pb.SegmentRequest(recipe=STOP))
    once, told = iter([True]), live.pool._on_change
    monkeypatch.setattr(
        live.pool,
        "_on_change",
        lambda: (live.pool.ready and next(once, False) and os.kill(live.pid, signal.SIGSTOP), told()),
    )
    with live.frozen() as before:
        stream.send(request(), request(NORMAL))
        until(lambda: live.waiting == 1 and live.accepted == 2)
        live.kill()
    until(lambda: live.pid != before and live.waiting == 1)
    live.kill()
    answers = stream.answers(2)
    assert_no_result(answers[0], pb.FRAME_STATUS_ENGINE_FAILED, "the engine died twice on this frame")
    assert statuses(answers) == ["ENGINE_FAILED", "OK"]


# Back pressure


def test_with_block_no_frame_is_lost_and_the_caller_is_held_back(live):
    sent = []

    def messages():
        yield opening(camera_id="camera", policy=pb.QUEUE_POLICY_BLOCK, queue=2)
        for number in range(60):
            sent.append(number)
            yield pb.InspectRequest(frame=request(LARGE, mask_format=pb.MASK_FORMAT_NONE))

    with live.frozen():
        call = live.inspection.Inspect(messages(), timeout=WAIT_S)
        next(call)
        until(lambda: live.accepted == 3 and len(live.places()) == 4)  # one in the engine, two wait, one for its place
        assert len(sent) < 50  # the others are on their way within HTTP/2's windows
    answers = [event.answer for event in call if event.HasField("answer")]
    assert statuses(answers) == ["OK"] * 60
    assert [answer.index for answer in answers] == list(range(60))
    assert call.code() is grpc.StatusCode.OK


def test_a_camera_over_its_rate_waits_with_block_and_loses_frames_with_latest(live, monkeypatch):
    monkeypatch.setattr(live.server._service, "_rate_per_s", 2.0)  # four at once
    began = monotonic()
    stream = live.open(policy=pb.QUEUE_POLICY_BLOCK)
    stream.send(*[request()] * 6)
    assert statuses(stream.answers(6)) == ["OK"] * 6
    assert monotonic() - began > 0.9  # two more than at once
    stream = live.open(policy=pb.QUEUE_POLICY_LATEST, queue=64, defaults=pb.SegmentRequest(recipe=STOP))
    stream.send(*[request(recipe=PASS)] * 8)
    stream.finish()
    answers = stream.answers()
    assert statuses(answers[:4]) == ["OK"] * 4
    assert len(answers) == 8
    dropped = [answer for answer in answers[4:] if answer.status != pb.FRAME_STATUS_OK]
    assert dropped
    for answer in dropped:
        assert_no_result(answer, pb.FRAME_STATUS_DROPPED, "the camera is over the server's rate", pb.GATE_PASS)


def test_a_frame_without_room_in_memory_waits_with_block_and_is_lost_with_latest(live, monkeypatch):
    monkeypatch.setattr(streams, "ROOM_S", 0.05)
    blocking, latest = (
        live.open(policy=policy, defaults=pb.SegmentRequest(recipe=STOP))
        for policy in (pb.QUEUE_POLICY_BLOCK, pb.QUEUE_POLICY_LATEST)
    )
    with live.full_memory():
        blocking.send(request(), request(deadline_ms=60_000))
        latest.send(request(), request())
        for answer in latest.answers(2):
            assert_no_result(answer, pb.FRAME_STATUS_DROPPED, "no room for a frame of 120 x 90 pixels")
        blocking.send(request(deadline_ms=1))
    answers = blocking.answers(3)
    assert statuses(answers[:2]) == ["OK", "OK"]
    assert answers[2].status in (pb.FRAME_STATUS_OK, pb.FRAME_STATUS_EXPIRED)
    with live.full_memory():
        blocking.send(request(deadline_ms=80))
        (answer,) = blocking.answers(1)
        assert_no_result(answer, pb.FRAME_STATUS_EXPIRED, "the deadline passed before there was room in memory")


# Callers who go, or do not read


def test_all_answers_come_after_a_caller_has_no_more_frames(live):
    stream = live.open(policy=pb.QUEUE_POLICY_BLOCK)
    with live.frozen():
        stream.send(*[request()] * 4)
        stream.finish()
        until(lambda: live.accepted == 4)
    assert statuses(stream.answers()) == ["OK"] * 4
    assert stream.code() is grpc.StatusCode.OK


def test_a_stream_without_frames_ends_well(live):
    stream = live.open()
    stream.finish()
    assert stream.answers() == []
    assert stream.code() is grpc.StatusCode.OK


def test_frames_of_a_caller_who_went_away_are_given_up(live):
    stream = live.open(policy=pb.QUEUE_POLICY_BLOCK)
    with live.frozen():
        stream.send(*[request()] * 4)
        until(lambda: live.accepted == 4)
        stream.close()
        until(lambda: live.accepted == 0 and live.waiting == 0)
    until(lambda: live.arena.free_bytes == live.arena.size)
    assert len(live.computed) <= 1  # the one that the engine had


def test_a_caller_who_went_away_waits_neither_for_a_place_nor_for_memory_nor_for_its_rate(live, monkeypatch):
    monkeypatch.setattr(streams, "ROOM_S", 0.05)
    stream = live.open(policy=pb.QUEUE_POLICY_BLOCK, queue=1)
    with live.frozen():
        stream.send(*[request()] * 9)
        until(lambda: len(live.places()) == 3)
        stream.close()
        until(lambda: live.server._service.open_streams == 0)
    with live.full_memory():
        stream = live.open(policy=pb.QUEUE_POLICY_BLOCK)
        stream.send(request())
        until(live.places)
        stream.close()
        until(lambda: not any(thread.name == "frames" for thread in threading.enumerate()))
    monkeypatch.setattr(live.server._service, "_rate_per_s", 0.01)
    stream = live.open(policy=pb.QUEUE_POLICY_BLOCK)
    stream.send(request(), request())
    stream.answers(1)
    stream.close()
    until(lambda: not any(thread.name == "frames" for thread in threading.enumerate()))


def stands_still(figure):
    """Whether it is the same as half a second ago."""
    before = figure()
    sleep(0.5)
    return figure() == before


@pytest.mark.parametrize("policy", [pb.QUEUE_POLICY_LATEST, pb.QUEUE_POLICY_BLOCK])
def test_from_a_caller_who_takes_no_answers_nothing_more_is_read(live, policy):
    """He holds so many frames' memory and no more; other cameras are answered."""
    sent, gone = [], threading.Event()
    asked = request(LARGE, probability_format=pb.PROBABILITY_FORMAT_FLOAT32)

    def messages():
        yield opening(camera_id="does not read", policy=policy, queue=1)
        while not gone.wait(0.01):
            sent.append(0)
            yield pb.InspectRequest(frame=asked)

    call = live.inspection.Inspect(messages())
    until(lambda: (session := live.session("does not read")) and not session._may_grow())
    until(
        lambda: stands_still(lambda: live.places("does not read")[-1].index)
    )  # gRPC takes an answer or two on its way
    assert live.arena.size - live.arena.free_bytes <= streams.MOST_SHARE * live.arena.size
    read = live.places("does not read")[-1].index
    other = live.open(policy=pb.QUEUE_POLICY_BLOCK)
    other.send(*[request()] * 5)
    assert statuses(other.answers(5)) == ["OK"] * 5
    assert live.places("does not read")[-1].index == read
    gone.set()
    call.cancel()


def test_so_many_answers_wait_and_no_further_frame_is_read_until_one_is_given(live):
    """They wait behind the first one, which its engine does not give."""
    wrong = request(recipe_name="nut")
    stream = live.open(camera_id="fast", policy=pb.QUEUE_POLICY_BLOCK)
    with live.frozen():
        stream.send(request(), *[wrong] * 3 * streams.MOST_UNTAKEN)
        until(lambda: len(live.places("fast")) >= streams.MOST_UNTAKEN)
        sleep(0.2)
        assert len(live.places("fast")) == streams.MOST_UNTAKEN
    stream.finish()
    answers = stream.answers()
    assert [answer.index for answer in answers] == list(range(3 * streams.MOST_UNTAKEN + 1))
    assert statuses(answers) == ["OK"] + ["INVALID"] * 3 * streams.MOST_UNTAKEN


def test_a_caller_who_takes_no_answers_is_cancelled_after_a_while_and_others_notice_nothing(live, monkeypatch):
    monkeypatch.setattr(live.server._guard.open, "_take_s", 0.3)
    gone = threading.Event()
    asked = request(LARGE, probability_format=pb.PROBABILITY_FORMAT_FLOAT32)

    def messages():
        yield opening(camera_id="does not read", policy=pb.QUEUE_POLICY_BLOCK)
        while not gone.wait(0.01):
            yield pb.InspectRequest(frame=asked)

    call = live.inspection.Inspect(messages())
    until(lambda: live.server._service.open_streams == 1)
    other = live.open(policy=pb.QUEUE_POLICY_BLOCK)
    other.heartbeat()
    while live.server._service.open_streams == 2:
        other.send(request())
        assert statuses(other.answers(1)) == ["OK"]
    gone.set()
    with pytest.raises(grpc.RpcError):
        list(call)
    assert call.code() is grpc.StatusCode.CANCELLED
    other.finish()
    assert other.code() is grpc.StatusCode.OK


def test_a_silent_caller_who_takes_his_heartbeats_stays(live, monkeypatch):
    monkeypatch.setattr(live.server._guard.open, "_take_s", 0.1)
    stream = live.open(heartbeat_ms=200)
    for _ in range(4):
        assert stream.heartbeat().serving
    stream.send(request())
    assert statuses(stream.answers(1)) == ["OK"]


def test_streams_and_calls_at_once_are_all_answered_rightly(live, segmenter):
    masks = [segmenter.segment(image).mask for image in IMAGES]

    def camera(number: int) -> None:
        stream = live.open(camera_id=f"camera {number}", policy=pb.QUEUE_POLICY_BLOCK)
        images = [(number + frame) % len(IMAGES) for frame in range(8)]
        stream.send(*[request(image, identity=pb.FrameIdentity(part_id=str(image))) for image in images])
        answers = stream.answers(8)
        assert [answer.identity.part_id for answer in answers] == [str(image) for image in images]
        for image, answer in zip(images, answers, strict=True):
            assert np.array_equal(reply_from(answer, 0.0).mask, masks[image])

    def caller(number: int) -> None:
        for image in range(number, number + 4):
            reply = live.inspection.Segment(request(image % len(IMAGES)))
            assert np.array_equal(reply_from(reply, 0.0).mask, masks[image % len(IMAGES)])

    with ThreadPoolExecutor(7) as threads:
        work = [threads.submit(camera, number) for number in range(4)]
        work += [threads.submit(caller, number) for number in range(3)]
        for done in work:
            done.result()
