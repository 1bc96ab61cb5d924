"""Triton's Python client, as it is published, against a running server: what is asked, answered and refused."""

import math
from collections import Counter
from queue import Queue
from time import perf_counter

import grpc
import numpy as np
import pytest
from google.protobuf.json_format import MessageToDict
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from agvas_runtime import __version__
from agvas_runtime.client import Client
from agvas_runtime.errors import InputError
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.proto.inference import open_inference_pb2 as oi
from agvas_runtime.proto.inference import open_inference_pb2_grpc as oi_grpc
from agvas_runtime.server.kserve.parameters import PARAMETERS, read_parameters
from agvas_runtime.verdict import Recipe
from tests.runtime.live_server import DEFECT, IMAGES, NORMAL, live_server, request, until

triton = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed; `make test` installs it")
from tritonclient.utils import InferenceServerException  # noqa: E402

OUTPUTS = ("MASK", "PROBABILITY", "VERDICT", "SCORE", "ANSWER")
SERVICE = "inference.GRPCInferenceService"


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    recipes = tmp_path_factory.mktemp("recipes")
    (recipes / "never.yaml").write_text("min_area_px: 1000000\n")
    with live_server(recipes=recipes, max_megapixels=1, max_message_mb=4) as server:
        yield server


@pytest.fixture(autouse=True)
def _nothing_is_left(live):
    yield
    until(lambda: live.accepted == 0 and live.arena.free_bytes == live.arena.size)


@pytest.fixture(scope="module")
def asking(live):
    client = triton.InferenceServerClient(live.address)
    yield client
    client.close()


@pytest.fixture(scope="module")
def ours(live):
    with Client(live.address) as client:
        yield client


@pytest.fixture(scope="module")
def stub(live):
    return oi_grpc.GRPCInferenceServiceStub(live.channel)


def tensor(name: str, array: np.ndarray, datatype: str = "UINT8"):
    made = triton.InferInput(name, array.shape, datatype)
    made.set_data_from_numpy(array)
    return made


def text(name: str, content: str | bytes):
    return tensor(name, np.array([content if isinstance(content, bytes) else content.encode()], np.object_), "BYTES")


def frame(array: np.ndarray = IMAGES[DEFECT]):
    return tensor("FRAME", array)


def wanted(*names: str):
    return [triton.InferRequestedOutput(name) for name in names]


def refused(asking, inputs, *, status: str = "INVALID_ARGUMENT", **more) -> str:
    with pytest.raises(InferenceServerException) as caught:
        asking.infer(more.pop("model", "agvas"), inputs, **more)
    assert caught.value.status() == f"StatusCode.{status}"
    return caught.value.message()


def test_the_server_and_its_model_are_ready(asking):
    assert asking.is_server_live()
    assert asking.is_server_ready()
    assert asking.is_model_ready("agvas")
    assert asking.is_model_ready("agvas", "1")
    metadata = asking.get_server_metadata()
    assert (metadata.name, metadata.version) == ("agvas", __version__)
    assert "system_shared_memory" in metadata.extensions
    [model] = asking.get_model_repository_index().models
    assert (model.name, model.version, model.state) == ("agvas", "1", "READY")


def test_metadata_and_configuration_say_the_same(asking):
    metadata, config = asking.get_model_metadata("agvas"), asking.get_model_config("agvas").config
    assert (metadata.name, list(metadata.versions), config.name) == ("agvas", ["1"], "agvas")
    assert config.max_batch_size == 0
    assert not config.model_transaction_policy.decoupled
    types = {"TYPE_UINT8": "UINT8", "TYPE_FP32": "FP32", "TYPE_STRING": "BYTES"}
    for one, other in ((metadata.inputs, config.input), (metadata.outputs, config.output)):
        assert [(each.name, each.datatype, list(each.shape)) for each in one] == [
            (each["name"], types[each["data_type"]], [int(size) for size in each["dims"]])
            for each in (MessageToDict(part, preserving_proto_field_name=True) for part in other)
        ]
    assert [each.name for each in metadata.outputs] == list(OUTPUTS)


@pytest.mark.parametrize("image", [DEFECT, NORMAL])
def test_an_array_gets_the_answer_that_our_client_gets(asking, ours, image):
    found = asking.infer("agvas", [frame(IMAGES[image])], request_id="part-7")
    expected = ours.segment(IMAGES[image], probability="float32")
    assert found.get_response().id == "part-7"
    np.testing.assert_array_equal(found.as_numpy("MASK"), expected.mask.view(np.uint8))
    np.testing.assert_array_equal(found.as_numpy("PROBABILITY"), expected.probability)
    assert found.as_numpy("VERDICT").tolist() == [expected.verdict.value.encode()]
    assert found.as_numpy("ANSWER").tolist() == [expected.answer.encode()]
    np.testing.assert_array_equal(found.as_numpy("SCORE"), np.float32([expected.scores.anomaly]))
    beside = found.get_response().parameters
    assert beside["gate"].string_param.lower() == expected.gate
    assert beside["reason"].string_param == expected.reason
    assert beside["defect_area_px"].int64_param == expected.defect_area_px
    assert beside["bundle_sha256"].string_param == expected.bundle_sha256
    assert beside["server_ms"].double_param >= beside["total_ms"].double_param > 0


def test_an_image_file_gets_the_answer_that_our_client_gets(asking, ours, photo):
    found = asking.infer("agvas", [text("IMAGE", photo.read_bytes())], outputs=wanted("MASK", "VERDICT"))
    expected = ours.segment(photo)
    np.testing.assert_array_equal(found.as_numpy("MASK"), expected.mask.view(np.uint8))
    assert found.as_numpy("VERDICT").tolist() == [expected.verdict.value.encode()]


def test_grey_frames_and_those_with_blue_first(asking, ours):
    grey, colour = IMAGES[DEFECT][..., 1].copy(), IMAGES[DEFECT][..., ::-1].copy()
    for array, parameters, expected in (
        (grey, {}, ours.segment(grey)),
        (colour, {"pixel_format": "BGR8"}, ours.segment(IMAGES[DEFECT])),
    ):
        found = asking.infer("agvas", [frame(array)], parameters=parameters, outputs=wanted("MASK"))
        np.testing.assert_array_equal(found.as_numpy("MASK"), expected.mask.view(np.uint8))


def test_only_the_outputs_that_are_asked_for_are_made(asking, live):
    for names in (("VERDICT",), ("SCORE", "MASK"), ("PROBABILITY",)):
        live.computed.clear()
        found = asking.infer("agvas", [frame()], outputs=wanted(*names)).get_response()
        assert [output.name for output in found.outputs] == list(names)
        assert len(found.raw_output_contents) == len(names)
        assert [ticket.task.probability for ticket in live.computed] == ["PROBABILITY" in names]


def test_what_is_asked_reaches_the_model(asking, ours, live):
    live.computed.clear()
    asking.infer("agvas", [frame(), text("INSTRUCTION", "Find scratches.")], outputs=wanted("ANSWER"))
    asking.infer("agvas", [frame(), text("CLASS_NAME", "scratches")], parameters={"mode": "describe"})
    settings = {"threshold": 0.25, "min_area_px": "17", "min_score": 0.5, "on_no_answer": "stop", "max_new_tokens": 9}
    asking.infer("agvas", [frame()], parameters=settings)
    first, second, third = (ticket.task for ticket in live.computed)
    assert first.request.instruction == "Find scratches."
    assert (second.request.mode.value, second.request.class_name) == ("describe", "scratches")
    assert third.recipe == Recipe(threshold=0.25, min_area_px=17, min_score=0.5, on_no_answer="stop")
    assert third.decoding.max_new_tokens == 9
    strict = ours.segment(IMAGES[DEFECT], recipe=Recipe(threshold=0.9))
    found = asking.infer("agvas", [frame()], parameters={"threshold": 0.9}, outputs=wanted("MASK"))
    np.testing.assert_array_equal(found.as_numpy("MASK"), strict.mask.view(np.uint8))


def test_a_recipe_is_taken_by_its_name_or_the_camera_s(asking):
    for parameters in ({"recipe": "never"}, {"camera_id": "never"}):
        found = asking.infer("agvas", [frame()], parameters=parameters, outputs=wanted("VERDICT"))
        assert found.as_numpy("VERDICT").tolist() == [b"PASS"]
        assert found.get_response().parameters["recipe"].string_param == "never"
    assert "none" in refused(asking, [frame()], parameters={"recipe": "none"})


def test_frames_count_among_those_of_their_camera(asking, live):
    asking.infer("agvas", [frame()], parameters={"camera_id": "triton-1"}, outputs=wanted("VERDICT"))
    refused(asking, [frame()], parameters={"camera_id": "triton-1", "threshold": 7.0})
    cameras = {camera.camera_id: camera for camera in live.server.statistics().cameras}
    assert cameras["triton-1"].frames == {"OK": 1, "INVALID": 1}


FRAME = IMAGES[DEFECT]
WRONG = [
    ([], {}, "found inputs none, expected FRAME or IMAGE"),
    ([text("INSTRUCTION", "x")], {}, "found inputs INSTRUCTION, expected FRAME or IMAGE"),
    ([frame(), text("IMAGE", b"x")], {}, "found inputs FRAME and IMAGE, expected one of them"),
    ([tensor("frame", FRAME)], {}, "found input 'frame', expected FRAME, IMAGE, INSTRUCTION or CLASS_NAME"),
    ([frame(), frame()], {}, "input FRAME: found twice, expected once"),
    ([tensor("FRAME", np.zeros((4, 4, 3), np.float32), "FP32")], {}, "found datatype 'FP32', expected UINT8"),
    ([tensor("IMAGE", np.zeros(4, np.uint8))], {}, "input IMAGE: found datatype 'UINT8', expected BYTES"),
    ([frame(FRAME[None])], {}, "found shape [1,90,120,3], expected [H,W,3] or [H,W]; a request holds one frame"),
    ([frame(FRAME[..., :2].copy())], {}, "input FRAME: found shape [90,120,2], expected [H,W,3] or [H,W]"),
    ([frame(np.zeros((0, 4, 3), np.uint8))], {}, "input FRAME: found shape [0,4,3]"),
    (
        [frame(np.zeros((1001, 1000), np.uint8))],
        {},
        "input FRAME: found shape [1001,1000], expected at most 1 mega",
    ),
    ([frame(), text("INSTRUCTION", b"\xff")], {}, "input INSTRUCTION: found bytes that are no UTF-8"),
    ([frame(), text("INSTRUCTION", "x" * 9000)], {}, "input INSTRUCTION: found"),
    ([text("IMAGE", b"no image")], {}, "input IMAGE: "),
    ([tensor("IMAGE", np.array([b"a", b"b"], np.object_), "BYTES")], {}, "input IMAGE: found shape [2], expected [1]"),
    (
        [frame()],
        {"outputs": wanted("mask")},
        "found output 'mask', expected MASK, PROBABILITY, VERDICT, SCORE or",
    ),
    ([frame()], {"outputs": wanted("MASK", "MASK")}, "output MASK: found twice, expected once"),
    (
        [frame()],
        {"outputs": [triton.InferRequestedOutput("MASK", class_count=2)]},
        "output MASK: found classification, which no output of this model has, expected none",
    ),
    ([frame()], {"parameters": {"treshold": 0.5}}, "found parameter 'treshold', expected one of recipe,"),
    ([frame()], {"parameters": {"threshold": 1.5}}, "parameter threshold: found 1.5, "),
    ([frame()], {"parameters": {"threshold": "high"}}, "parameter threshold: found 'high', expected a number"),
    ([frame()], {"parameters": {"min_area_px": -1}}, "parameter min_area_px: found -1, expected an integer"),
    ([frame()], {"parameters": {"min_area_px": True}}, "parameter min_area_px: found True, expected an integer"),
    ([frame()], {"parameters": {"camera_id": 7}}, "parameter camera_id: found 7, expected a text"),
    ([frame()], {"parameters": {"mode": "guess"}}, "parameter mode: found 'guess', expected one of DIRECT, "),
    ([frame()], {"parameters": {"deadline_ms": -5}}, "parameter deadline_ms: found -5, "),
    ([frame()], {"parameters": {"pixel_format": "YUV"}}, "parameter pixel_format: found 'YUV', expected RGB8 or BGR8"),
]


@pytest.mark.parametrize(("inputs", "more", "expected"), WRONG, ids=[case[2][:60] for case in WRONG])
def test_what_is_wrong_is_named_with_what_was_found_and_expected(asking, inputs, more, expected):
    message = refused(asking, inputs, **more)
    assert message.startswith("model agvas")
    assert expected in message
    assert "\n" not in message


def test_another_model_or_version_is_not_found(asking):
    assert "found 'resnet'" in refused(asking, [frame()], model="resnet", status="NOT_FOUND")
    assert "found '2'" in refused(asking, [frame()], model_version="2", status="NOT_FOUND")
    for ask in (asking.is_model_ready, asking.get_model_metadata, asking.get_model_config):
        with pytest.raises(InferenceServerException, match="model_name: found 'resnet'"):
            ask("resnet")


def raw_request(*raw: bytes, **fields) -> oi.ModelInferRequest:
    shown = oi.ModelInferRequest.InferInputTensor(name="FRAME", datatype="UINT8", shape=[2, 2, 3])
    return oi.ModelInferRequest(**{"model_name": "agvas", "inputs": [shown], "raw_input_contents": raw, **fields})


WRONG_BYTES = [
    (raw_request(), "input FRAME: found no content, expected raw_input_contents, contents or shared memory"),
    (raw_request(bytes(11)), "input FRAME: found 11 bytes, expected 12 for UINT8 [2,2,3]"),
    (raw_request(bytes(12), b"", b""), "raw_input_contents: found 2 more than there are inputs, expected one an input"),
    *(
        (
            raw_request(
                content, inputs=[oi.ModelInferRequest.InferInputTensor(name="IMAGE", datatype="BYTES", shape=[1])]
            ),
            f"input IMAGE: found {len(content)} bytes, expected the element's length in 4 bytes",
        )
        for content in (b"", b"\1\0\0", b"\1\0\0\0", b"\1\0\0\0ab", b"\xff\xff\xff\xffab")
    ),
]


@pytest.mark.parametrize(("request_", "expected"), WRONG_BYTES, ids=[case[1] for case in WRONG_BYTES])
def test_bytes_that_are_no_such_tensor_are_refused(stub, request_, expected):
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request_)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert expected in caught.value.details()


def test_listed_elements_of_another_kind_are_refused(stub):
    shown = oi.ModelInferRequest.InferInputTensor(name="FRAME", datatype="UINT8", shape=[2, 2])
    shown.contents.uint_contents.extend([0, 1, 2, 256])
    with pytest.raises(grpc.RpcError, match="input FRAME: found a number above 255, expected UINT8"):
        stub.ModelInfer(raw_request(inputs=[shown]))
    shown.contents.ClearField("uint_contents")
    shown.contents.fp32_contents.extend([0.5] * 4)
    with pytest.raises(grpc.RpcError, match="input FRAME: found fp32_contents, expected uint_contents for UINT8"):
        stub.ModelInfer(raw_request(inputs=[shown]))


@pytest.mark.parametrize("asked", [{"timeout": 20_000}, {"parameters": {"deadline_ms": 20.0}}])
def test_a_request_s_time_bounds_its_wait(asking, live, asked):
    with live.frozen():
        busy = live.inspection.Segment.future(request())
        until(lambda: live.accepted == 1 and live.waiting == 0)
        message = refused(asking, [frame()], status="DEADLINE_EXCEEDED", **asked)
    assert message == "the deadline of 20 ms passed before an engine was free"
    busy.result()


@pytest.mark.parametrize(
    ("kind", "value", "deadline_ms"),
    [("int64_param", 20_000, 20), ("uint64_param", 20_000, 20), ("string_param", "20000", 20),
     ("double_param", 2500.0, 2.5), ("string_param", "0", None), ("int64_param", 0, None)],
)  # fmt: skip
def test_a_timeout_may_be_any_kind_of_number(kind, value, deadline_ms):
    asked, request = oi.ModelInferRequest(), pb.SegmentRequest()
    setattr(asked.parameters["timeout"], kind, value)
    read_parameters(asked, request)
    assert (request.deadline_ms if request.HasField("deadline_ms") else None) == deadline_ms


@pytest.mark.parametrize(
    ("kind", "value"),
    [("bool_param", True), ("string_param", "soon"), ("string_param", "nan"), ("double_param", math.nan)],
)
def test_a_timeout_that_is_no_number_is_refused(kind, value):
    asked = oi.ModelInferRequest()
    setattr(asked.parameters["timeout"], kind, value)
    with pytest.raises(InputError, match=r"parameter timeout: found .*, expected a number"):
        read_parameters(asked, pb.SegmentRequest())


def test_statistics_count_what_was_asked(asking):
    before = asking.get_inference_statistics("agvas").model_stats[0].inference_stats
    asking.infer("agvas", [frame()])
    asking.infer("agvas", [frame()])
    refused(asking, [])
    [model] = asking.get_inference_statistics().model_stats
    after = model.inference_stats
    for stage in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        assert getattr(after, stage).count - getattr(before, stage).count == 2, stage
    assert after.fail.count - before.fail.count == 1
    assert model.inference_count == model.execution_count == after.success.count
    parts = sum(getattr(after, stage).ns for stage in ("queue", "compute_input", "compute_infer", "compute_output"))
    assert 0 < after.compute_infer.ns < parts <= after.success.ns
    assert model.last_inference > 1.7e12


def test_a_stream_answers_every_request_and_goes_on_behind_a_wrong_one(asking):
    answers = Queue()
    asking.start_stream(lambda result, error: answers.put((result, error)))
    one = asking.infer("agvas", [frame()], outputs=wanted("MASK")).as_numpy("MASK")
    for index, inputs in enumerate(([frame()], [], [frame()])):
        asking.async_stream_infer("agvas", inputs, outputs=wanted("MASK"), request_id=str(index))
    found = [answers.get(timeout=60) for _ in range(3)]
    asking.stop_stream()
    assert [error and error.message() for _, error in found] == [
        None,
        "model agvas: found inputs none, expected FRAME or IMAGE",
        None,
    ]
    for index in (0, 2):
        assert found[index][0].get_response().id == str(index)
        np.testing.assert_array_equal(found[index][0].as_numpy("MASK"), one)


def test_a_stream_keeps_to_the_server_s_rate(asking, live, monkeypatch):
    monkeypatch.setattr(live.server._service, "_rate_per_s", 4.0)  # eight at once
    answers = Queue()
    asking.start_stream(lambda result, error: answers.put(error))
    began = perf_counter()
    for _ in range(12):
        asking.async_stream_infer("agvas", [frame()], outputs=wanted("MASK"))
    assert [answers.get(timeout=60) for _ in range(12)] == [None] * 12
    asking.stop_stream()
    assert perf_counter() - began > 0.9  # four of them waited a quarter of a second each


def test_a_caller_of_a_stream_who_goes_away_leaves_nothing(live, stub):
    with live.frozen():
        replies = stub.ModelStreamInfer(iter([raw_request(bytes(12))]))
        until(lambda: live.accepted == 1)
        replies.cancel()
        until(lambda: live.accepted == 0)


def test_reflection_lists_and_describes_the_service(live):
    database = ProtoReflectionDescriptorDatabase(live.channel)
    assert SERVICE in database.get_services()
    file = database.FindFileContainingSymbol(SERVICE)
    assert file.package == "inference"
    assert "ModelInferRequest" in [message.name for message in file.message_type]


def test_every_method_says_that_bytes_are_no_message(live):
    for method in oi.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        call = live.channel.stream_stream(f"/{SERVICE}/{method.name}")(iter([b"\xff\xff"]), timeout=30)
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details().startswith(f"message: found 2 bytes that are no {method.input_type.name}, ")


def test_a_message_of_too_many_parts_is_refused(live):
    with pytest.raises(grpc.RpcError) as caught:
        live.channel.unary_unary(f"/{SERVICE}/ModelInfer")(b"\x2a\x00" * 257)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "message: found more than 256 fields, expected fewer"


def test_methods_of_triton_that_the_server_has_not_are_unimplemented(asking):
    for ask in (lambda: asking.load_model("agvas"), asking.get_log_settings, asking.get_cuda_shared_memory_status):
        with pytest.raises(InferenceServerException) as caught:
            ask()
        assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


def test_while_no_engine_is_ready_the_model_is_not():
    with live_server() as live:
        client = triton.InferenceServerClient(live.address)
        live.server._refuse("on purpose")
        assert client.is_server_live()
        assert not client.is_server_ready()
        assert not client.is_model_ready("agvas")
        [model] = client.get_model_repository_index(as_json=True)["models"]
        assert (model["state"], model["reason"]) == ("UNAVAILABLE", "on purpose")
        assert "on purpose" in refused(client, [frame()], status="UNAVAILABLE")
        answers = Queue()
        client.start_stream(lambda result, error: answers.put(error))
        until(lambda: live.server._kserve._idle)
        live.server._kserve.stop("the end")  # an idle stream holds up nobody's end
        assert "CANCELLED" in answers.get(timeout=60).status()
        client.close()


ODD_VALUES = (0, -1, 1, 2**31, 2**63 - 1, "", "0.5", "nan", "\x00", "x" * 3000, float("nan"), float("inf"), 1e308, True)
ODD_SIZES = (0, 1, -1, 2, 3, 16, 70_000, 2**31, 2**63 - 1)


def odd_request(seed: int) -> bytes:
    """A request with something wrong in it, most often."""
    rng = np.random.default_rng(seed)
    asked = raw_request(rng.bytes(12))
    tensor = asked.inputs[0]
    for _ in range(rng.integers(1, 4)):
        kind = rng.integers(6)
        name = rng.choice([*PARAMETERS, "timeout", "pixel_format", "shared_memory_region", "shared_memory_byte_size"])
        holder = rng.choice([asked, tensor, asked.outputs.add(name=str(rng.choice(OUTPUTS)))])
        if kind <= 1:
            value = ODD_VALUES[rng.integers(len(ODD_VALUES))]
            fields = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
            setattr(holder.parameters[name], fields[type(value)], value)
        elif kind == 2:
            tensor.shape[:] = [int(rng.choice(ODD_SIZES)) for _ in range(rng.integers(5))]
        elif kind == 3:
            tensor.name = str(rng.choice(["FRAME", "IMAGE", "INSTRUCTION", "CLASS_NAME", ""]))
            tensor.datatype = str(rng.choice(["UINT8", "BYTES", "FP32", ""]))
        elif kind == 4:
            asked.raw_input_contents.append(rng.bytes(rng.integers(20)))
        else:
            tensor.contents.uint_contents.extend([1] * int(rng.integers(20)))
    data = bytearray(asked.SerializeToString())
    if seed % 3 == 0:
        data[rng.integers(len(data))] = rng.integers(256)
    return bytes(data)


def test_whatever_is_asked_the_status_is_a_documented_one(live):
    call = live.channel.unary_unary(f"/{SERVICE}/ModelInfer")
    found, texts = Counter(), []
    for seed in range(400):
        try:
            call(odd_request(seed), timeout=60)
            found["OK"] += 1
        except grpc.RpcError as error:
            found[error.code().name] += 1
            texts.append(error.details())
    assert not any("\n" in text for text in texts)
    assert set(found) <= {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "DEADLINE_EXCEEDED"}
    assert found["INVALID_ARGUMENT"] > 100
    assert found["OK"] > 10
