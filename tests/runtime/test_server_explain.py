"""`Explain` and the modes: the embedded model in a server of its own process says what the segmenter says.

What becomes of answers whose readers go, and of those that take their time, is in `test_server_faults`.
"""

from contextlib import closing

import grpc
import numpy as np
import pytest

from agvas_runtime.client import Client
from agvas_runtime.errors import InputError
from agvas_runtime.modes import Mode
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.proto.agvas.v1 import inspection_pb2_grpc as pb_grpc
from agvas_runtime.result import AnswerKind
from agvas_runtime.server.config import ServerConfig
from agvas_runtime.wire import GroupMask
from agvas_runtime.writer import Decoding
from tests.conftest import DEMO_FRAMES

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
    for _ in range(ServerConfig().max_waiting + 2):
        with closing(client.explain(photo, mode=Mode.DESCRIBE)) as events:
            next(events)
    assert np.array_equal(client.segment(photo).mask, expected.mask)
