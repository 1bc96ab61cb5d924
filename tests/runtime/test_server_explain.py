"""`Explain` and the modes: the embedded model in a server of its own process, endless answers in this one."""

import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import closing
from typing import ClassVar

import grpc
import numpy as np
import pytest

from agvas_runtime.client import Client, ConnectionLostError
from agvas_runtime.errors import Cancelled, EngineError, InputError
from agvas_runtime.maps import binarise
from agvas_runtime.modes import Mode, Reading
from agvas_runtime.outcome import Stopwatch, finish
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.proto.agvas.v1 import inspection_pb2_grpc as pb_grpc
from agvas_runtime.result import AnswerKind, Scores
from agvas_runtime.segmenter import GroupMap, Text
from agvas_runtime.server import service
from agvas_runtime.server.channel import client_options
from agvas_runtime.server.turns import Turns
from agvas_runtime.verdict import Recipe, Verdict
from agvas_runtime.wire import GroupMask, SegmentReply
from agvas_runtime.writer import Decoding
from tests.conftest import DEMO_FRAMES
from tests.runtime.test_server_faults import IMAGE, RAW, serving

PHOTOS = sorted(DEMO_FRAMES.glob("*.jpg"))[2:5]
QUESTION = "What is on the surface?"
ASKED = {
    Mode.DIRECT: {"class_name": "scratches"},
    Mode.DESCRIBE: {},
    Mode.DESCRIBE_PLUS: {"normal_look": "A smooth grey surface."},
    Mode.EXPLAIN: {},
    Mode.FINE_GRAINED: {"instruction": "Please segment the crack at the top left."},
    Mode.CONVERSATION: {"instruction": QUESTION},
    Mode.GENERAL: {"class_name": "screws"},
}
DECODINGS = {
    "greedy": Decoding(),
    "drawn": Decoding(temperature=1.5, top_p=0.9, seed=5, max_new_tokens=30),
    "no text": Decoding(text=False),
    "rechecked": Decoding(strict_below=1e9, max_new_tokens=40),
}
WAIT_S = 30


def assert_says(reply, result):
    """The reply says what the result does, and what it took."""
    for name in ("verdict", "reason", "answer", "answer_kind", "confidence", "scores", "size", "defect_area_px"):
        assert getattr(reply, name) == getattr(result, name), name
    for name in ("regions", "instruction", "tokens", "proved_tokens", "one_pass", "verified", "rechecked"):
        assert getattr(reply, name) == getattr(result, name), name
    assert reply.scores.normality == result.scores.normality
    assert np.array_equal(reply.mask, result.mask)
    assert len(reply.groups) == len(result.group_maps)


@pytest.mark.parametrize("mode", Mode)
def test_segment_in_every_mode_says_what_the_segmenter_says(client, segmenter, photo, mode):
    assert_says(client.segment(photo, mode=mode, **ASKED[mode]), segmenter.segment(photo, mode=mode, **ASKED[mode]))


@pytest.mark.parametrize("mode", [Mode.DESCRIBE, Mode.EXPLAIN, Mode.CONVERSATION])
def test_explain_writes_the_answer_piece_by_piece_and_ends_with_what_the_segmenter_says(client, segmenter, mode):
    for photo in PHOTOS:
        *events, reply = client.explain(photo, mode=mode, **ASKED[mode])
        result = segmenter.segment(photo, mode=mode, **ASKED[mode])
        assert_says(reply, result)
        assert "".join(event for event in events if isinstance(event, str)) == result.answer
        groups = [event for event in events if isinstance(event, GroupMask)]
        assert bool(groups) == (result.answer_kind is AnswerKind.SEGMENTED)
        assert all(np.array_equal(group.mask, result.mask) for group in groups)
        assert {"text", "queue", "encode", "server"} <= reply.timings_ms.keys()


def test_explain_explains_unless_told_otherwise(client, segmenter, photo):
    *_, reply = client.explain(photo)
    assert_says(reply, segmenter.segment(photo, mode=Mode.EXPLAIN))
    with grpc.insecure_channel(client.address) as channel:
        *_, last = pb_grpc.InspectionStub(channel).Explain(
            pb.SegmentRequest(frame=pb.Frame(encoded=photo.read_bytes()))
        )
    assert last.result.instruction == reply.instruction


@pytest.mark.parametrize("name", DECODINGS)
def test_the_way_of_writing_travels(client, segmenter, photo, name):
    decoding = DECODINGS[name]
    result = segmenter.segment(photo, mode=Mode.DESCRIBE, decoding=decoding)
    *_, reply = client.explain(photo, mode=Mode.DESCRIBE, decoding=decoding)
    assert_says(reply, result)
    assert_says(client.segment(photo, mode=Mode.DESCRIBE, decoding=decoding), result)


def test_maps_come_in_the_formats_that_are_asked_for(client, segmenter):
    decoding = Decoding(text=False)
    for photo in PHOTOS:
        result = segmenter.segment(photo, decoding=decoding)
        *events, reply = client.explain(photo, mode=Mode.DIRECT, decoding=decoding, mask="none", probability="float32")
        for group in (event for event in events if isinstance(event, GroupMask)):
            assert group.mask is None
            assert np.array_equal(group.probability, result.probability)
        assert reply.mask is None
        assert np.array_equal(reply.probability, result.probability)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"mode": 99}, "mode: found 99, expected DIRECT, DESCRIBE, DESCRIBE_PLUS, EXPLAIN, FINE_GRAINED, CONVERSATION"),
        ({"mode": pb.MODE_CONVERSATION}, "mode conversation needs instruction"),
        ({"mode": pb.MODE_FINE_GRAINED}, "mode fine-grained needs instruction"),
        ({"mode": pb.MODE_GENERAL}, "mode general needs class_name"),
        ({"mode": pb.MODE_DESCRIBE_PLUS}, "mode describe-plus needs normal_look"),
        ({"normal_look": "Smooth."}, "takes no normal_look"),
        ({"class_name": "a", "instruction": "b"}, "can't use both instruction and class_name"),
        ({"class_name": " "}, "class_name: found a blank text"),
        ({"class_name": "x" * 500}, "class_name: found 500 characters"),
        ({"instruction": "a\0"}, "instruction: character 2 is"),
        ({"mode": pb.MODE_DESCRIBE_PLUS, "normal_look": "x" * 500}, "normal_look: found 500 characters"),
        ({"decoding": pb.Decoding(max_new_tokens=0)}, "decoding.max_new_tokens: found 0, input should be greater"),
        ({"decoding": pb.Decoding(temperature=-1)}, "decoding.temperature: found -1.0, input should be greater"),
        ({"decoding": pb.Decoding(temperature=float("nan"))}, "decoding.temperature: found nan"),
        ({"decoding": pb.Decoding(temperature=11)}, "decoding.temperature: found 11.0, input should be less"),
        ({"decoding": pb.Decoding(top_p=0)}, "decoding.top_p: found 0.0, input should be greater than 0"),
        ({"decoding": pb.Decoding(top_p=1.5)}, "decoding.top_p: found 1.5, input should be less"),
        ({"decoding": pb.Decoding(strict_below=-0.5)}, "decoding.strict_below: found -0.5, input should be greater"),
        ({"mask_format": 9}, "mask_format: found 9"),
        ({"recipe": pb.Recipe(min_score=2)}, "recipe.min_score: found 2.0"),
    ],
)
def test_a_wrong_field_is_an_invalid_argument_of_one_line_before_any_event(client, photo, fields, text):
    request = pb.SegmentRequest(frame=pb.Frame(encoded=photo.read_bytes()), **fields)
    with grpc.insecure_channel(client.address) as channel:
        stub = pb_grpc.InspectionStub(channel)
        for call in (stub.Segment, lambda message: next(stub.Explain(message))):
            with pytest.raises(grpc.RpcError) as caught:
                call(request)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert text in caught.value.details()
            assert "\n" not in caught.value.details()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"mode": Mode.CONVERSATION}, "mode conversation needs instruction"),
        ({"class_name": ""}, "class_name: found a blank text"),
        ({"pixel_format": "RGB8"}, "pixel_format: found RGB8 for an image file"),
    ],
)
def test_the_client_refuses_what_it_can_without_a_call(options, text):
    with Client("127.0.0.1:1") as nowhere, pytest.raises(InputError, match=text):
        nowhere.explain(b"x", **options)


def test_an_explanation_that_nobody_reads_on_leaves_the_server_as_it_was(client, photo):
    expected = client.segment(photo)
    for _ in range(service.MAX_WAITING + 2):
        with closing(client.explain(photo, mode=Mode.DESCRIBE)) as events:
            next(events)
    assert np.array_equal(client.segment(photo).mask, expected.mask)


# From here on segmenters that do as the test says; transport, service and client are real.


def result_of(*maps: np.ndarray):
    """A segmentation with these maps."""
    whole = np.maximum.reduce(maps)
    scores = Scores(0.75, 0.25, 0.0, anomaly=0.75, min_margin=1.0)
    groups = maps if len(maps) > 1 else ()
    reading = Reading(AnswerKind.SEGMENTED)
    return finish(whole, reading, "It is.", scores, 0.5, Recipe(), Stopwatch(), group_maps=groups)


HALF = np.tile(np.float32([0, 0, 1, 1]), (4, 1))
RESULT = result_of(HALF)


class Endless:
    """Writes until it is told to end, and says which thread closed it."""

    def __init__(self, event=Text(" is")) -> None:
        self.event, self.streams = event, 0
        self.told, self.closed = threading.Event(), threading.Event()
        self.closed_on = ""

    def stream(self, image, request, recipe, *, decoding, cancelled):
        self.streams += 1
        try:
            while not self.told.is_set():
                yield self.event
            yield RESULT
        finally:
            self.closed_on = threading.current_thread().name
            self.closed.set()

    def segment_batch(self, images, request, recipe, *, decoding, cancelled):
        return [RESULT] * len(images)

    def assert_closed(self) -> None:
        assert self.closed.wait(WAIT_S)
        assert self.closed_on.startswith("engine")


@pytest.fixture
def endless():
    return Endless()


@pytest.fixture
def connected(endless):
    with serving(endless) as address, Client(address) as client:
        yield client


def message(mode: int = pb.MODE_UNSPECIFIED, **fields) -> pb.SegmentRequest:
    return pb.SegmentRequest(frame=pb.Frame(raw=RAW), mode=mode, **fields)


def test_a_frame_is_answered_while_an_explanation_is_being_written(endless, connected):
    with closing(connected.explain(IMAGE)) as events:
        assert next(events) == " is"
        assert connected.segment(IMAGE).verdict is Verdict.REJECT
        assert not endless.closed.is_set()
        endless.told.set()
        *_, last = events
    assert isinstance(last, SegmentReply)
    endless.assert_closed()


def test_a_frame_is_answered_while_another_s_long_answer_is_being_written(endless, connected):
    with grpc.insecure_channel(connected.address) as channel:
        call = pb_grpc.InspectionStub(channel).Segment.future(message(pb.MODE_DESCRIBE))
        assert connected.segment(IMAGE).verdict is Verdict.REJECT
        assert not call.done()
        endless.told.set()
        assert call.result(WAIT_S).verdict == pb.VERDICT_REJECT


def test_closing_the_iterator_ends_the_writing_and_frees_its_place(endless, connected):
    for _ in range(service.MAX_WAITING + 2):
        with closing(connected.explain(IMAGE)) as events:
            next(events)
        endless.assert_closed()
        endless.closed.clear()


def test_explanations_take_places_like_frames_and_one_more_is_refused(endless, connected):
    streams = [connected.explain(IMAGE) for _ in range(service.MAX_WAITING)]
    for events in streams:
        next(events)
    for call in (connected.segment, lambda image: next(connected.explain(image))):
        with pytest.raises(EngineError, match="16 frames are waiting"):
            call(IMAGE)
    for events in streams:
        events.close()


def test_a_deadline_that_passes_ends_the_writing(endless, connected):
    with pytest.raises(ConnectionLostError, match=r"127\.0\.0\.1:\d+: .*Deadline Exceeded"):
        for _ in connected.explain(IMAGE, timeout_s=0.3):
            pass
    endless.assert_closed()


def test_a_client_that_goes_away_ends_the_writing(endless, connected):
    with Client(connected.address) as other:
        events = other.explain(IMAGE)
        next(events)
    endless.assert_closed()


def test_a_client_that_goes_away_ends_the_writing_of_a_plain_answer(endless, connected):
    with grpc.insecure_channel(connected.address) as channel:
        call = pb_grpc.InspectionStub(channel).Segment.future(message(pb.MODE_CONVERSATION, instruction=QUESTION))
        while not endless.streams:
            connected.segment(IMAGE)
        call.cancel()
        endless.assert_closed()


def test_a_short_answer_ends_when_its_client_goes_away():
    begun, ended = threading.Event(), threading.Event()

    class Short(Endless):
        def segment_batch(self, images, request, recipe, *, decoding, cancelled):
            begun.set()
            while not cancelled():
                ended.wait(0.01)
            ended.set()
            raise Cancelled("gone")

    with serving(Short()) as address, grpc.insecure_channel(address) as channel:
        call = pb_grpc.InspectionStub(channel).Segment.future(message())
        assert begun.wait(WAIT_S)
        call.cancel()
        assert ended.wait(WAIT_S)


def test_a_caller_who_is_gone_has_no_turn_any_more():
    class Context:
        callbacks: ClassVar[list] = []

        def add_callback(self, callback):
            self.callbacks.append(callback)
            return True

    free, ran = threading.Event(), []
    with ThreadPoolExecutor(1) as engine, ThreadPoolExecutor(1) as handler:
        engine.submit(free.wait, WAIT_S)
        turns = Turns(engine, Context())
        waiting = handler.submit(turns.take, lambda: ran.append("waiting"))
        Context.callbacks[0]()
        with pytest.raises((Cancelled, CancelledError)):
            waiting.result(WAIT_S)
        free.set()
        with pytest.raises((Cancelled, CancelledError)):
            turns.take(lambda: ran.append("late"))
    with pytest.raises(Cancelled, match="the server stops"):
        turns.take(lambda: ran.append("too late"))
    assert ran == []


def test_a_reader_that_takes_nothing_blocks_nobody_and_is_cancelled(monkeypatch):
    monkeypatch.setattr(service, "PATIENCE_S", 0.5)
    large = Endless(GroupMap(0, np.zeros((2048, 2048), np.float32)))
    with serving(large) as address, grpc.insecure_channel(address, options=client_options()) as channel:
        events = pb_grpc.InspectionStub(channel).Explain(message(probability_format=pb.PROBABILITY_FORMAT_FLOAT32))
        assert next(events).group.index == 0
        with Client(address) as other:
            assert other.segment(IMAGE).verdict is Verdict.REJECT
        large.assert_closed()
        with pytest.raises(grpc.RpcError) as caught:
            list(events)
    assert caught.value.code() is grpc.StatusCode.CANCELLED


def test_a_server_that_stops_ends_the_writing(endless):
    with serving(endless) as address:
        client = Client(address)
        events = client.explain(IMAGE)
        next(events)
    assert endless.closed.wait(WAIT_S)
    with client, pytest.raises(ConnectionLostError):
        list(events)


@pytest.mark.parametrize(
    ("error", "kind"), [(EngineError("graph decode: no"), EngineError), (InputError("x"), InputError)]
)
def test_an_error_while_an_answer_is_written_comes_behind_its_beginning(error, kind):
    class Failing(Endless):
        def stream(self, image, request, recipe, *, decoding, cancelled):
            yield Text("It")
            raise error

    with serving(Failing()) as address, Client(address) as client:
        events = client.explain(IMAGE)
        assert next(events) == "It"
        with pytest.raises(kind, match=str(error)):
            next(events)


def test_several_groups_of_anchors_give_several_masks():
    maps = HALF, HALF.T * np.float32(0.75)

    class Several(Endless):
        result = result_of(*maps)

        def stream(self, image, request, recipe, *, decoding, cancelled):
            yield from [Text("[NOR][ANO][SEG]"), GroupMap(0, maps[0]), Text("[SEG]"), GroupMap(1, maps[1]), self.result]

        def segment_batch(self, images, request, recipe, **options):
            return [self.result]

    with serving(Several()) as address, Client(address) as client:
        *events, reply = client.explain(IMAGE, probability="png16")
        again = client.segment(IMAGE, mask="png", probability="float32")
    groups = [event for event in events if isinstance(event, GroupMask)]
    for found in (groups, reply.groups, again.groups):
        assert [group.index for group in found] == [0, 1]
        for group, probability in zip(found, maps, strict=True):
            assert np.array_equal(group.mask, binarise(probability, 0.5))
            assert np.abs(group.probability - probability).max() < 1e-4
    assert np.array_equal(reply.mask, Several.result.mask)
    assert [type(event) for event in events] == [str, GroupMask, str, GroupMask]
