"""A real server on a loopback port: standard services, `Segment`, `GetModel`, and what it says to bad requests."""

import subprocess
import sys
from datetime import datetime, timezone

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from agvas_runtime import __version__, encoding
from agvas_runtime.bundle import MANIFEST
from agvas_runtime.client import Client
from agvas_runtime.frames import decode_image, read_image
from agvas_runtime.hashing import sha256_file
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.proto.agvas.v1 import inspection_pb2_grpc as pb_grpc
from agvas_runtime.server import health
from agvas_runtime.server.channel import client_options
from agvas_runtime.wire import FrameIdentity

SERVICE = "agvas.v1.Inspection"
ADMIN = "agvas.v1.Admin"
INFERENCE = "inference.GRPCInferenceService"


@pytest.fixture(scope="module")
def channel(server, client):
    with grpc.insecure_channel(f"127.0.0.1:{server.port}", options=client_options()) as opened:
        yield opened


@pytest.fixture(scope="module")
def stub(channel):
    return pb_grpc.InspectionStub(channel)


def encoded(data: bytes, **fields: object) -> pb.SegmentRequest:
    return pb.SegmentRequest(frame=pb.Frame(encoded=data), **fields)


@pytest.mark.parametrize("service", ["", SERVICE, ADMIN, INFERENCE])
def test_health_is_serving(channel, service):
    reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_the_container_health_check_tells_serving_from_absent(server, client):
    for address, code in ((f"127.0.0.1:{server.port}", 0), ("127.0.0.1:1", 1)):
        done = subprocess.run([sys.executable, "-m", health.__name__, address], capture_output=True, check=False)
        assert done.returncode == code


def test_reflection_lists_the_services_and_their_messages(channel):
    database = ProtoReflectionDescriptorDatabase(channel)
    standard = {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    assert set(database.get_services()) == {SERVICE, ADMIN, INFERENCE, *standard}
    for service, name in ((SERVICE, "SegmentRequest"), (ADMIN, "SwapRequest"), (INFERENCE, "ModelInferRequest")):
        file = database.FindFileContainingSymbol(service)
        assert name in [message.name for message in file.message_type]


def test_get_model_says_what_the_manifest_says(client, segmenter):
    model, manifest = client.model(), segmenter.bundle.manifest
    assert model.name == manifest.name
    assert model.bundle_sha256 == sha256_file(segmenter.bundle.folder / MANIFEST)
    assert model.checkpoint_sha256 == manifest.source.checkpoint_sha256
    assert model.default_instruction == manifest.prompt.default_instruction
    assert (model.threshold, model.alpha) == (manifest.model.threshold, manifest.model.alpha)
    assert {name: graph["precision"] for name, graph in model.graphs.items()} == {
        name: graph.precision for name, graph in manifest.graphs.items()
    }
    assert model.parity.keys() == manifest.parity.keys()
    assert model.templates["rejections"] == 21
    assert model.agvas_version == __version__


def test_a_reply_says_what_the_segmenter_says(client, segmenter, photo):
    reply, result = client.segment(photo, probability="float32"), segmenter.segment(photo)
    assert np.array_equal(reply.mask, result.mask)
    assert np.array_equal(reply.probability, result.probability)
    assert (reply.verdict, reply.reason, reply.answer) == (result.verdict, result.reason, result.answer)
    assert (reply.answer_kind, reply.scores, reply.confidence) == (result.answer_kind, result.scores, result.confidence)
    assert reply.regions == result.regions
    assert (reply.size, reply.defect_area_px) == (result.size, result.defect_area_px)


def test_a_reply_names_the_time_of_every_stage(client, photo, segmenter):
    stages = list(client.segment(photo).timings_ms)
    assert stages == [*segmenter.segment(photo).timings_ms, "queue", "encode", "server"]


def test_a_reply_names_the_model(client, photo):
    reply, model = client.segment(photo), client.model()
    assert (reply.model_name, reply.bundle_sha256) == (model.name, model.bundle_sha256)


def test_the_frame_s_identity_comes_back_unchanged(client, photo):
    identity = FrameIdentity(
        camera_id="line-1",
        part_id="part \u00e4",
        trigger_id="t",
        sequence=0,
        encoder_count=-(2**62),
        capture_time=datetime(2026, 11, 1, 12, 0, 0, 123456, tzinfo=timezone.utc),
    )
    assert client.segment(photo, identity=identity).identity == identity
    assert client.segment(photo).identity == FrameIdentity()


@pytest.mark.parametrize("pixel_format", ["RGB8", "BGR8"])
def test_raw_colour_gives_the_mask_of_the_same_image_encoded(client, photo, pixel_format):
    image = read_image(photo)
    pixels = image if pixel_format == "RGB8" else image[..., ::-1]
    assert np.array_equal(client.segment(pixels, pixel_format=pixel_format).mask, client.segment(photo).mask)


@pytest.mark.parametrize(("dtype", "pixel_format"), [(np.uint8, "MONO8"), (np.uint16, "MONO16")])
def test_raw_grey_gives_the_mask_of_the_same_image_encoded(client, photo, dtype, pixel_format):
    grey = read_image(photo)[..., 0].astype(dtype) * (257 if dtype is np.uint16 else 1)
    png = encoding.png(grey)
    assert decode_image(png).shape == (*grey.shape, 3)
    assert np.array_equal(client.segment(grey, pixel_format=pixel_format).mask, client.segment(png).mask)


def test_formats_of_mask_and_map_hold_the_same_values(stub, photo, segmenter):
    data, result = photo.read_bytes(), segmenter.segment(photo)
    png = stub.Segment(encoded(data, probability_format=pb.PROBABILITY_FORMAT_PNG16))
    bits = stub.Segment(encoded(data, mask_format=pb.MASK_FORMAT_PACKED_BITS))
    none = stub.Segment(encoded(data, mask_format=pb.MASK_FORMAT_NONE))
    assert png.mask.format == pb.MASK_FORMAT_PNG
    assert np.array_equal(encoding.mask_from_png(png.mask.data), result.mask)
    assert np.array_equal(encoding.mask_from_bits(bits.mask.data, result.size), result.mask)
    assert not none.HasField("mask")
    assert not none.HasField("probability")
    error = np.abs(encoding.probability_from_png16(png.probability.data) - result.probability)
    assert error.max() <= 0.5001 / 65535


def test_the_recipe_decides_what_counts(stub, photo):
    data = photo.read_bytes()
    whole = pb.Recipe(min_area_px=10**9)
    assert stub.Segment(encoded(data, recipe=whole)).verdict != pb.VERDICT_REJECT
    assert stub.Segment(encoded(data, recipe=whole)).gate == pb.GATE_PASS


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (pb.SegmentRequest(), "frame.content: found nothing, expected raw or encoded"),
        (encoded(b""), "frame.encoded"),
        (encoded(b"not an image"), "frame.encoded: not an image"),
        (encoded(b"\x89PNG\r\n\x1a\n"), "frame.encoded"),
        (
            pb.SegmentRequest(frame=pb.Frame(raw=pb.RawImage(pixel_format=77, width=1, height=1, data=b"1"))),
            "frame.raw.pixel_format: found 77, expected one of MONO8, MONO10, MONO12, MONO16, RGB8, BGR8",
        ),
        (encoded(b"", mask_format=9), "mask_format: found 9, expected NONE, PNG, PACKED_BITS, COCO_RLE or POLYGONS"),
        (
            encoded(b"", probability_format=9),
            "probability_format: found 9, expected NONE, FLOAT32, PNG16 or FLOAT16",
        ),
        (encoded(b"", recipe=pb.Recipe(min_area_px=0)), "recipe.min_area_px: found 0"),
        (encoded(b"", recipe=pb.Recipe(min_score=1.5)), "recipe.min_score: found 1.5"),
        (encoded(b"", recipe=pb.Recipe(min_score=float("nan"))), "recipe.min_score: found nan"),
        (encoded(b"", recipe=pb.Recipe(on_no_answer=9)), "recipe.on_no_answer: found 9, expected REJECT, PASS or STOP"),
    ],
)
def test_a_bad_request_is_an_invalid_argument_of_one_line(stub, request_, text):
    with pytest.raises(grpc.RpcError) as caught:
        stub.Segment(request_)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert text in caught.value.details()
    assert "\n" not in caught.value.details()


@pytest.mark.parametrize(
    ("instruction", "text"), [("  ", "instruction: found a blank text"), ("x" * 2001, "instruction: found 2001 char")]
)
def test_an_unusable_instruction_is_an_invalid_argument(stub, photo, instruction, text):
    with pytest.raises(grpc.RpcError) as caught:
        stub.Segment(encoded(photo.read_bytes(), instruction=instruction))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert text in caught.value.details()


def test_a_request_above_the_message_limit_is_refused_and_the_server_lives_on(server, stub, photo):
    with pytest.raises(grpc.RpcError) as caught:
        stub.Segment(encoded(bytes(65 << 20)))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in caught.value.details()
    with Client(f"127.0.0.1:{server.port}") as client:
        client.segment(photo)


def test_many_clients_at_once_get_the_same_masks(stub, photo, segmenter):
    expected = encoding.mask_to_bits(segmenter.segment(photo).mask)
    request = encoded(photo.read_bytes(), mask_format=pb.MASK_FORMAT_PACKED_BITS)
    calls = [stub.Segment.future(request) for _ in range(12)]
    assert {call.result().mask.data for call in calls} == {expected}
