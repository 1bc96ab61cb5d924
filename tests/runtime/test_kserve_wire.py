"""Tensors as bytes: what is taken apart and put together by hand is what protobuf would have made."""

import subprocess
import sys

import numpy as np
import pytest
from google.protobuf.message import DecodeError

from agvas_runtime.errors import InputError
from agvas_runtime.proto.inference import open_inference_pb2 as oi
from agvas_runtime.server.kserve.wire import MOST_BESIDE_BYTES, MOST_FIELDS, decode, encode

FRAME = oi.ModelInferRequest.InferInputTensor(name="FRAME", datatype="UINT8", shape=[2, 100, 3])


def request(*raw: bytes) -> oi.ModelInferRequest:
    made = oi.ModelInferRequest(model_name="agvas", id="7", inputs=[FRAME, FRAME], raw_input_contents=raw)
    made.parameters["camera_id"].string_param = "line-1"
    return made


def whole(data: bytes) -> oi.ModelInferRequest:
    """A request again as protobuf would have read it."""
    found = decode(data)
    assert not found.message.raw_input_contents
    found.message.raw_input_contents.extend(bytes(raw) for raw in found.raw)
    return found.message


@pytest.mark.parametrize("raw", [(), (b"",), (bytes(600), b"x"), (b"\x3a\x01a" * 50, bytes(200_000))])
def test_a_request_is_read_as_protobuf_reads_it(raw):
    asked = request(*raw)
    assert whole(asked.SerializeToString()) == asked


def test_tensors_are_not_copied():
    data = request(bytes(range(200))).SerializeToString()
    [raw] = decode(data).raw
    assert raw.obj is data


def test_a_tensor_s_length_may_need_five_bytes():
    size = 1 << 28
    head = oi.ModelInferRequest(model_name="agvas").SerializeToString()
    data = b"".join((head, b"\x3a\x80\x80\x80\x80\x01", bytes(size)))
    found = decode(data)
    assert [len(raw) for raw in found.raw] == [size]
    assert found.message.model_name == "agvas"


def test_parts_that_come_twice_are_merged_as_protobuf_does():
    first, second = request(b"a"), oi.ModelInferRequest(id="8", inputs=[FRAME], raw_input_contents=[b"b"])
    data = first.SerializeToString() + second.SerializeToString()
    assert whole(data) == oi.ModelInferRequest.FromString(data)


def test_whatever_the_bytes_are_the_request_is_protobufs_or_none():
    readable = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        data = bytearray(request(b"abc", bytes(rng.integers(256, size=40, dtype=np.uint8))).SerializeToString())
        for place in rng.integers(len(data), size=rng.integers(1, 4)):
            data[place] = rng.integers(256)
        data = bytes(data[: rng.integers(len(data) + 1)] if seed % 3 == 0 else data)
        found, expected = read_by(whole, data), read_by(oi.ModelInferRequest.FromString, data)
        assert found == expected, seed
        readable += found is not None
    assert 50 < readable < 250


def read_by(read, data):
    """What it reads; None where it refuses."""
    try:
        return read(data)
    except (DecodeError, ValueError, IndexError):
        return None


@pytest.mark.parametrize("more", [b"\x90\x03\xff\xff\x7f", b"\x91\x03" + bytes(8), b"\x95\x03abcd", b"\x92\x03\x02ab"])
def test_fields_of_a_later_protocol_are_passed_over(more):
    asked = request(b"abc")
    assert decode(more + asked.SerializeToString()).raw == (b"abc",)
    assert decode(more + asked.SerializeToString()).message.model_name == "agvas"


def test_a_request_of_too_many_parts_is_refused_before_it_takes_memory():
    """Protobuf would make gigabytes of some megabytes."""
    for part in (b"\x3a\x00", b"\x2a\x00"):
        assert decode(part * MOST_FIELDS)
        with pytest.raises(InputError, match="found more than 256 fields, expected fewer"):
            decode(part * (MOST_FIELDS + 1))
    shapes = oi.ModelInferRequest(inputs=[{"shape": [1] * MOST_BESIDE_BYTES}]).SerializeToString()
    with pytest.raises(InputError, match=r"bytes beside raw_input_contents, expected at most 8388608; large tensors"):
        decode(shapes)


def test_a_reply_is_what_protobuf_would_have_written():
    head = oi.ModelInferResponse(model_name="agvas", id="7")
    contents = [b"", memoryview(bytes(300)), np.arange(70_000, dtype=np.float32).data.cast("B")]
    head.parameters["gate"].string_param = "PASS"
    expected = oi.ModelInferResponse()
    expected.CopyFrom(head)
    expected.raw_output_contents.extend(map(bytes, contents))
    assert oi.ModelInferResponse.FromString(encode(head, contents)) == expected
    streamed = oi.ModelStreamInferResponse.FromString(encode(head, contents, streamed=True))
    assert streamed == oi.ModelStreamInferResponse(infer_response=expected)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_server_and_tritons_client_live_in_one_process(order):
    pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed; `make test` installs it")
    imports = "from tritonclient.grpc import service_pb2", "import agvas_runtime.server.serve"
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(imports[i] for i in order)], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def test_names_and_numbers_are_those_of_tritons_client():
    grpc = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed; `make test` installs it")
    for name, ours in oi.DESCRIPTOR.message_types_by_name.items():
        theirs = getattr(grpc.service_pb2, name, None) or getattr(grpc.model_config_pb2, name)
        assert_part_of(ours, theirs.DESCRIPTOR)
    service = grpc.service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    for method in oi.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        other = service.methods_by_name[method.name]
        assert method.input_type.full_name == other.input_type.full_name
        assert method.output_type.full_name == other.output_type.full_name
        assert method.server_streaming == other.server_streaming


def assert_part_of(ours, theirs) -> None:
    for field in ours.fields:
        other = theirs.fields_by_name[field.name]
        assert (field.number, field.type, field.is_repeated) == (other.number, other.type, other.is_repeated), field
    for nested in ours.nested_types:
        assert_part_of(nested, theirs.nested_types_by_name[nested.name])
