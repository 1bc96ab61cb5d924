"""Pixels that stay where they were received: the rest of the message is what protobuf makes of the whole."""

import random

import pytest
from google.protobuf.message import DecodeError

from agvas_runtime.apart import (
    ENCODED_OF_INSPECT,
    ENCODED_OF_SEGMENT,
    OF_INSPECT,
    OF_SCAN,
    OF_SEGMENT,
    decoder,
    joined,
)
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb

PIXELS = bytes(range(256)) * 3
SEGMENT, INSPECT = decoder(pb.SegmentRequest, OF_SEGMENT), decoder(pb.InspectRequest, OF_INSPECT)


def request(**more):
    raw = pb.RawImage(pixel_format=pb.PIXEL_FORMAT_MONO8, width=256, height=3, stride=256, data=PIXELS)
    frame = pb.Frame(raw=raw, identity=pb.FrameIdentity(camera_id="c", encoder_count=1 << 60))
    return pb.SegmentRequest(frame=frame, **more)


def together(apart):
    """The whole message again, as protobuf would have made it."""
    whole = type(apart.message)()
    whole.CopyFrom(apart.message)
    if apart.pixels is not None:
        frame = whole.frame.frame if isinstance(whole, pb.InspectRequest) else whole.frame
        assert not frame.raw.data
        if frame.WhichOneof("content") == "raw":
            frame.raw.data = bytes(apart.pixels)
    return whole


def test_pixels_are_the_very_bytes_that_were_received():
    data = request(instruction="Find scratches.", deadline_ms=40.5).SerializeToString()
    found = SEGMENT(data)
    assert found.pixels.obj is data
    assert found.pixels == PIXELS
    assert not found.message.frame.raw.data
    assert together(found) == pb.SegmentRequest.FromString(data)


def test_they_are_found_in_the_message_of_a_stream():
    data = pb.InspectRequest(frame=request()).SerializeToString()
    found = INSPECT(data)
    assert found.pixels == PIXELS
    assert together(found) == pb.InspectRequest.FromString(data)


@pytest.mark.parametrize(
    "message",
    [
        pb.SegmentRequest(),
        pb.SegmentRequest(instruction="x", recipe=pb.Recipe(min_area_px=3)),
        pb.SegmentRequest(frame=pb.Frame(encoded=PIXELS)),
        pb.SegmentRequest(frame=pb.Frame(raw=pb.RawImage(width=4))),
        pb.SegmentRequest(frame=pb.Frame()),
    ],
    ids=["empty", "no frame", "encoded", "no data", "empty frame"],
)
def test_without_raw_pixels_the_message_is_whole(message):
    found = SEGMENT(message.SerializeToString())
    assert (found.message, found.pixels) == (message, None)


def test_fields_that_come_twice_are_merged_as_protobuf_does():
    other = pb.SegmentRequest(frame=pb.Frame(raw=pb.RawImage(width=9, data=b"other")))
    twice = request().SerializeToString() + other.SerializeToString()
    assert together(SEGMENT(twice)) == pb.SegmentRequest.FromString(twice)
    encoded = pb.SegmentRequest(frame=pb.Frame(encoded=b"file")).SerializeToString()
    for data in (twice + encoded, encoded + twice):
        assert together(SEGMENT(data)) == pb.SegmentRequest.FromString(data)


def test_an_image_file_behind_the_raw_frame_takes_its_place():
    inner = request().frame.SerializeToString() + pb.Frame(encoded=b"file").SerializeToString()
    data = b"\x0a" + bytes([len(inner) & 0x7F | 0x80, len(inner) >> 7]) + inner
    assert SEGMENT(data).message.frame.WhichOneof("content") == "encoded"
    assert together(SEGMENT(data)) == pb.SegmentRequest.FromString(data)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 20_000])
@pytest.mark.parametrize(
    ("message", "path"),
    [
        (pb.SegmentRequest(), ENCODED_OF_SEGMENT),
        (pb.SegmentRequest(instruction="x", mask_format=pb.MASK_FORMAT_PNG), ENCODED_OF_SEGMENT),
        (pb.SegmentRequest(frame=pb.Frame(identity=pb.FrameIdentity(part_id="7"))), ENCODED_OF_SEGMENT),
        (pb.SegmentRequest(frame=pb.Frame(raw=pb.RawImage())), OF_SEGMENT),
        (pb.SegmentRequest(class_name="dent", frame=pb.Frame(raw=pb.RawImage(width=300, height=1))), OF_SEGMENT),
        (pb.InspectRequest(), ENCODED_OF_INSPECT),
        (pb.InspectRequest(frame=pb.SegmentRequest(frame=pb.Frame(raw=pb.RawImage(width=9)))), OF_INSPECT),
        (pb.ScanRequest(rows=pb.RowBlock(height=3, encoder_count=1 << 60)), OF_SCAN),
    ],
)
def test_joined_to_their_message_pixels_travel_as_protobuf_would_send_them(message, path, size):
    content = bytes(range(256)) * -(-size // 256)
    expected, *names = type(message).FromString(message.SerializeToString()), *path
    inner = expected
    for number in names[:-1]:
        inner = getattr(inner, inner.DESCRIPTOR.fields_by_number[number].name)
    setattr(inner, inner.DESCRIPTOR.fields_by_number[names[-1]].name, content[:size])
    found = joined(message, path, memoryview(content)[:size])
    assert type(message).FromString(found) == expected
    assert (len(found) == len(expected.SerializeToString())) or not size  # protobuf leaves out what is empty


def decoded(decode, data):
    try:
        return decode(data)
    except DecodeError:
        return None


@pytest.mark.parametrize("seed", range(8))
def test_whatever_the_bytes_are_the_message_is_protobufs(seed):
    chance = random.Random(seed)
    small = request(class_name="scratch", mask_format=pb.MASK_FORMAT_PNG)
    small.frame.raw.data = b"pixels"
    readable = 0
    for kind, decode, whole in (
        (pb.SegmentRequest, SEGMENT, small),
        (pb.InspectRequest, INSPECT, pb.InspectRequest(frame=small)),
    ):
        plain = whole.SerializeToString()
        for _ in range(2000):
            data = bytearray(plain)
            for _ in range(chance.choice((1, 1, 2, 5))):
                at = chance.randrange(len(data))
                match chance.randrange(4):
                    case 0:
                        data[at] = chance.randrange(256)
                    case 1:
                        data[at:at] = chance.randbytes(chance.randrange(4))
                    case 2:
                        del data[at : at + chance.randrange(1, 4)]
                    case 3:
                        data[at:at] = plain[chance.randrange(len(plain)) :]
            expected, found = decoded(kind.FromString, bytes(data)), decoded(decode, bytes(data))
            readable += expected is not None
            assert (found is None) == (expected is None), data.hex()
            if found is not None:
                assert together(found).SerializeToString(deterministic=True) == expected.SerializeToString(
                    deterministic=True
                ), data.hex()
    assert readable > 200
