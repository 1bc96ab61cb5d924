"""`Client.inspect`: a camera's stream from Python, against a real server; and what a request says of itself."""

import numpy as np
import pytest

from agvas_runtime.asked import request_of
from agvas_runtime.client import Client, ConnectionLostError
from agvas_runtime.demo.server_process import server_process
from agvas_runtime.errors import InputError
from agvas_runtime.frames import read_image
from agvas_runtime.modes import Mode
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.scan_wire import WebSettings
from agvas_runtime.verdict import Recipe, Verdict
from agvas_runtime.wire import FrameIdentity, RawFrame
from agvas_runtime.writer import Decoding
from tests.conftest import DEMO_FRAMES

FILES = sorted(DEMO_FRAMES.glob("*.jpg"))[:5]


def test_every_frame_has_its_reply_in_order(client, segmenter):
    replies = list(client.inspect(FILES, camera_id="line-1"))
    assert [reply.index for reply in replies] == list(range(len(FILES)))
    assert {reply.status for reply in replies} == {"ok"}
    assert {reply.identity.camera_id for reply in replies} == {"line-1"}
    for reply, file in zip(replies, FILES, strict=True):
        result = segmenter.segment(file)
        assert (reply.verdict, reply.answer) == (result.verdict, result.answer)
        assert np.array_equal(reply.mask, result.mask)


def test_identities_arrays_and_settings_travel(client, segmenter):
    image, identity = read_image(FILES[3]), FrameIdentity(camera_id="b", part_id="p", sequence=7)
    recipe = Recipe(threshold=0.2, roi=(0, 0, 40, 30))
    (reply,) = client.inspect([(image, identity)], recipe=recipe, probability="float32", decoding=Decoding(text=False))
    result = segmenter.segment(image, recipe=recipe, decoding=Decoding(text=False))
    assert reply.identity == identity
    assert np.array_equal(reply.mask, result.mask)
    assert np.array_equal(reply.probability, result.probability)


def test_a_frame_that_is_none_is_told_of_and_the_next_one_answered(client):
    bad, good = client.inspect([b"no image", FILES[0]], recipe=Recipe(on_no_answer="stop"))
    assert (bad.status, bad.verdict, bad.gate) == ("invalid", Verdict.NO_ANSWER, "stop")
    assert bad.reason.startswith("frame.encoded: not an image file")
    assert good.status == "ok"


def test_frames_that_are_no_frames_end_the_stream_with_their_own_error(client, tmp_path):
    stream = client.inspect([FILES[0], tmp_path / "absent.png"])
    assert next(stream).status == "ok"
    with pytest.raises(InputError, match=r"absent\.png: No such file"):
        next(stream)


def test_frames_that_cannot_be_sent_are_left_out_where_somebody_wants_to_know(client, tmp_path):
    unsent = []
    names = FILES[0], tmp_path / "absent.png", FILES[1]
    frames = [(file, FrameIdentity(part_id=file.name)) for file in names]
    frames.insert(1, (FILES[2], FrameIdentity(part_id="\udce4")))
    replies = list(client.inspect(frames, on_unsent=lambda *told: unsent.append(told)))
    assert [(reply.status, reply.identity.part_id) for reply in replies] == [
        ("ok", FILES[0].name),
        ("ok", FILES[1].name),
    ]
    assert [identity.part_id for identity, _ in unsent] == ["\udce4", "absent.png"]
    assert "No such file" in str(unsent[1][1])


def test_an_identity_that_the_protocol_cannot_say_is_refused_by_name(client):
    with pytest.raises(InputError, match=r"identity\.sequence: found -1: Value out of range"):
        client.segment(FILES[0], identity=FrameIdentity(part_id="p", sequence=-1))


def test_what_frames_raise_is_raised(client):
    def frames():
        yield FILES[0]
        raise ZeroDivisionError("the camera's driver")

    with pytest.raises(ZeroDivisionError, match="driver"):
        list(client.inspect(frames()))


def test_a_wrong_opening_is_an_input_error(client):
    with pytest.raises(InputError, match=r"open\.queue: found 65, expected 1 to 64"):
        list(client.inspect(FILES, queue=65))
    with pytest.raises(InputError, match="recipe_name: found 'absent'"):
        list(client.inspect(FILES, recipe_name="absent"))


def test_heartbeats_say_whether_the_server_serves(client):
    heard = []
    list(client.inspect(FILES[:1], on_heartbeat=heard.append))
    assert heard[0] == ""


def test_a_server_that_goes_away_is_a_lost_connection_that_counts_the_parts():
    with server_process() as running, Client(f"127.0.0.1:{running.port}") as own:
        sent = iter(FILES)

        def frames():
            yield next(sent)
            yield next(sent)
            running.process.kill()
            running.process.wait()
            yield next(sent)

        with pytest.raises(ConnectionLostError, match=r"; [1-3] frames have no answer$"):
            list(own.inspect(frames()))


def test_a_request_says_only_what_its_caller_said():
    assert request_of(None, {}) == pb.SegmentRequest(mask_format=pb.MASK_FORMAT_PACKED_BITS)
    assert request_of(None, {"mask": None}) == pb.SegmentRequest()
    said = request_of(
        "Segment the dents.",
        {
            "mode": Mode.DESCRIBE,
            "mask": None,
            "recipe": Recipe(threshold=0.3),
            "decoding": Decoding(max_new_tokens=9),
            "recipe_name": "bracket",
            "deadline_ms": 40,
        },
    )
    assert said == pb.SegmentRequest(
        mode=pb.MODE_DESCRIBE,
        instruction="Segment the dents.",
        recipe=pb.Recipe(threshold=0.3),
        decoding=pb.Decoding(max_new_tokens=9),
        recipe_name="bracket",
        deadline_ms=40,
    )


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"mask": "jpeg"}, "mask: found 'jpeg', expected png, packed_bits"),
        ({"probability": "png"}, "probability: found 'png', expected none, float32"),
        ({"mode": Mode.CONVERSATION}, "mode conversation needs instruction"),
        ({"mode": "look"}, "mode: found 'look'"),
        ({"recipe": {"threshold": 0.4}}, "^recipe: found a dict, expected a Recipe$"),
        ({"decoding": {"text": False}}, "^decoding: found a dict, expected a Decoding$"),
    ],
)
def test_what_makes_no_sense_is_refused_before_it_is_sent(asked, text):
    with pytest.raises(InputError, match=text):
        request_of(None, asked)


@pytest.mark.parametrize(
    ("asked", "text"),
    [({"heartbeat_ms": -5}, "heartbeat_ms: "), ({"queue": 2**40}, "queue: "), ({"camera_id": "\udcff"}, "camera_id: ")],
)
def test_what_the_protocol_cannot_say_is_named(client, asked, text):
    with pytest.raises(InputError, match=f"^{text}"):
        list(client.inspect([], **asked))


def test_raw_frames_and_rows_of_impossible_numbers_are_named(client):
    with pytest.raises(InputError, match="image: found width -1, height 1, stride 0: "):
        client.segment(RawFrame(b"123", -1, 1, "MONO8"))
    web = WebSettings(2, "mono8")
    assert pb.ScanRequest.FromString(web.block(np.zeros((1, 2), np.uint8))).rows.height == 1
    with pytest.raises(InputError, match="rows: encoder_count: "):
        web.block(np.zeros((1, 2), np.uint8), encoder_count=2**70)
