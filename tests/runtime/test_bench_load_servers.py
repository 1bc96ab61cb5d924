"""The load of agvas-bench serve on servers that do as they are told: what becomes of every frame."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import grpc
import numpy as np
import pytest
import trustme

from agvas_runtime.bench.load import kserve_model
from agvas_runtime.bench.load.connection import Connection
from agvas_runtime.bench.load.inspect_target import InspectTarget, answer_from
from agvas_runtime.bench.load.kserve_target import KServeTarget
from agvas_runtime.bench.load.outcome import check_answered, describe_step, outcomes_of
from agvas_runtime.bench.load.pictures import load_pictures
from agvas_runtime.bench.load.schedule import Arrivals, read_cameras
from agvas_runtime.bench.load.step import Load, run_step
from agvas_runtime.bench.load.table import remarks
from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.proto.inference import open_inference_pb2 as oi
from agvas_runtime.proto.inference import open_inference_pb2_grpc as oi_grpc
from tests.runtime.scripted_inspection import answer, answers_all, serving

SMALL = (16, 24)


def load(seconds, wait_s=5.0) -> Load:
    return Load(Arrivals.CONSTANT, 0, seconds, 0.0, wait_s)


def answered(address, texts, asked, policy="latest", **more):
    """What became of the frames of every camera."""
    target = InspectTarget(Connection(address, **more), load_pictures([], SMALL, False), policy)
    return [outcomes_of(run) for run in run_step(target, read_cameras(texts), asked)]


def test_frames_go_on_being_sent_while_none_is_answered_and_their_waiting_counts():
    def stalls(messages, context):
        """Answers frame 5 once frame 25 is there, which a generator that waits for answers would never send."""
        waiting = []
        for index, _ in enumerate(messages):
            waiting.append(index)
            if not 5 <= index < 25:
                yield from map(answer, waiting)
                waiting.clear()

    with serving(stalls) as (address, _):
        [found] = answered(address, ["100"], load(0.5))
    assert [each.status for each in found] == ["OK"] * 50
    for each in found[5:25]:
        assert each.latency_ms >= (found[25].due_s - each.due_s) * 1e3  # 200 ms of frame 5, 190 of frame 6, ...
    assert all(each.engine_ms == 2.0 for each in found)


def test_what_flow_control_holds_back_counts_as_waiting_and_not_as_a_late_generator():
    def reads_late(messages, context):
        """One frame, the others once all are due: more than the connection holds."""
        next(messages)
        threading.Event().wait(0.2)  # the frame was sent when it was due or later, and the last is due 0.19 s after it
        reading.append(perf_counter())
        yield answer(0)
        for index, _ in enumerate(messages, 1):
            yield answer(index)

    reading: list[float] = []
    with serving(reads_late) as (address, _):
        target = InspectTarget(Connection(address), load_pictures([], (1200, 1200), False), "block")
        [run] = run_step(target, read_cameras(["100"]), load(0.2, wait_s=60))
    found = outcomes_of(run)
    assert [each.status for each in found] == ["OK"] * 20
    assert all(each.latency_ms > (reading[0] - run.begin - each.due_s) * 1e3 for each in found)
    held = [shot for shot in run.shots if shot.sent > reading[0]][1:]  # all due, and the way not free before
    assert len(held) > 5
    assert all(shot.late_ms <= (shot.sent - reading[0]) * 1e3 for shot in held)


def test_every_frame_has_one_status_and_the_sum_is_what_was_due():
    kinds = ("OK", "DROPPED", "EXPIRED", "ENGINE_FAILED")

    def mixes(messages, context):
        for index, _ in enumerate(messages):
            if index < 17:
                yield answer(index, kinds[index % 4], reason="as told")

    with serving(mixes) as (address, servicer):
        outcomes = answered(address, ["40:50x2", "40"], load(0.5), policy="block")
    step = describe_step(read_cameras(["40:50x2", "40"]), outcomes, load(0.5))
    statuses = {"OK": 5, "DROPPED": 4, "EXPIRED": 4, "ENGINE_FAILED": 4, "NO_ANSWER": 3}
    assert all(each["statuses"] == statuses and each["sent"] == 20 for each in step["per_camera"])
    assert step["statuses"] == {name: 3 * count for name, count in statuses.items()}
    assert sum(step["statuses"].values()) == step["sent"] == 60
    assert step["per_camera"][2]["misses"] == 15
    opened = sorted(servicer.opened, key=lambda each: each.camera_id)
    assert [each.camera_id for each in opened] == ["camera-1", "camera-2", "camera-3"]
    assert [each.defaults.deadline_ms for each in opened] == [50.0, 50.0, 0.0]
    assert {each.policy for each in opened} == {pb.QUEUE_POLICY_BLOCK}


def test_a_status_that_only_a_newer_server_knows_is_one_of_its_own():
    newer = pb.SegmentResponse(status=9, reason="the lens is dirty", timings=[pb.StageTiming(stage="total", ms=3.0)])
    found = answer_from(newer, 1.0)
    assert (found.status, found.engine_ms, found.reason) == ("UNKNOWN", None, "the lens is dirty")


def test_a_step_ends_although_answers_are_missing():
    def never(messages, context):
        gone = threading.Event()
        context.add_callback(gone.set)
        gone.wait()
        yield from ()

    with serving(never) as (address, _):
        [found] = answered(address, ["20"], load(0.3, wait_s=0.1))
    assert {each.status for each in found} == {"NO_ANSWER"}
    with pytest.raises(EngineError, match=r"here: none of 6 frames was answered: 6 NO_ANSWER$"):
        check_answered("here", [found])


def test_a_connection_that_breaks_off_loses_its_frames_and_no_others():
    def breaks(messages, context):
        for index, _ in enumerate(messages):
            yield answer(index)
            if index == 9 and next(tenths) == 0:
                context.abort(grpc.StatusCode.UNAVAILABLE, "going down")

    tenths = itertools.count()
    with serving(breaks) as (address, _):
        outcomes = answered(address, ["50x2"], load(0.5))
    step = describe_step(read_cameras(["50x2"]), outcomes, load(0.5))
    assert sorted(each["statuses"].get("CONNECTION_LOST", 0) for each in step["per_camera"]) == [0, 15]
    assert sum(step["statuses"].values()) == 50
    assert remarks(step, outcomes, load(0.5))[0] == "15 of 50 frames are CONNECTION_LOST: going down"


def test_a_stream_that_is_refused_or_ended_early_loses_all_its_frames():
    def refuses(messages, context):
        if next(streams) > 0:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "1 stream is open")
        yield from answers_all(messages, context)

    streams = itertools.count()
    with serving(refuses) as (address, _):
        outcomes = answered(address, ["20x2"], load(0.2))
    assert sorted(each[0].status for each in outcomes) == ["CONNECTION_LOST", "OK"]
    assert {each.reason for camera in outcomes for each in camera} == {"", "1 stream is open"}
    with serving(lambda messages, context: iter([answer(0)])) as (address, _):
        [found] = answered(address, ["20"], load(0.2))
    assert {(each.status, each.reason) for each in found[1:]} == {("CONNECTION_LOST", "the server ended the stream")}


def test_tokens_and_certificates_go_along_with_every_stream(tmp_path):
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    pair = (issued.private_key_pem.bytes(), b"".join(each.bytes() for each in issued.cert_chain_pems))
    with serving(answers_all, grpc.ssl_server_credentials([pair])) as (address, servicer):
        outcomes = answered(address, ["20x2"], load(0.1), token="abc", ca=tmp_path / "ca.pem")
    assert {each.status for camera in outcomes for each in camera} == {"OK"}
    assert servicer.callers == ["Bearer abc"] * 2


def metadata(inputs, outputs=("MASK", "ENGINE_MS")) -> oi.ModelMetadataResponse:
    tensor = oi.ModelMetadataResponse.TensorMetadata
    return oi.ModelMetadataResponse(
        name="segmenter",
        inputs=[tensor(name=name, datatype=datatype, shape=shape) for name, datatype, shape in inputs],
        outputs=[tensor(name=name) for name in outputs],
    )


class LikeTriton(oi_grpc.GRPCInferenceServiceServicer):
    """Answers as tools/triton_models/segmenter does; the first call only when ten more are there, some not at all."""

    def __init__(self) -> None:
        self.requests, self.callers = list[oi.ModelInferRequest](), list[str]()
        self.lock = threading.Lock()
        self.eleven = threading.Event()

    def ServerLive(self, request, context):
        return oi.ServerLiveResponse(live=True)

    def RepositoryIndex(self, request, context):
        return oi.RepositoryIndexResponse(models=[oi.RepositoryIndexResponse.ModelIndex(name="segmenter")])

    def ModelMetadata(self, request, context):
        return metadata([("FRAME", "UINT8", (-1, -1, 3))])

    def ModelInfer(self, request, context):
        with self.lock:
            self.requests.append(request)
            number = len(self.requests) - 1  # 0 is asked before the load
        self.callers.append(dict(context.invocation_metadata()).get("authorization", ""))
        if number == 11:
            self.eleven.set()
        if number == 1:
            assert self.eleven.wait(30)
        codes = {5: "RESOURCE_EXHAUSTED", 6: "DEADLINE_EXCEEDED", 7: "UNAVAILABLE", 8: "INTERNAL"}
        if number in codes:
            context.abort(grpc.StatusCode[codes[number]], "as told")
        if number == 9:
            context.set_trailing_metadata((("x-request-id", "9"),))
            context.abort(grpc.StatusCode.UNAVAILABLE, "no engine is ready")
        reply = oi.ModelInferResponse(raw_output_contents=[b"\xff", np.float64(0.25).tobytes()])
        reply.outputs.add(name="MASK", datatype="UINT8", shape=[1, 1])
        reply.outputs.add(name="ENGINE_MS", datatype="FP64", shape=[1])
        return reply


def test_the_same_load_on_a_server_like_triton(tmp_path):
    server, servicer = grpc.server(ThreadPoolExecutor(32)), LikeTriton()
    oi_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        target = KServeTarget(Connection(address, "abc"), load_pictures([], SMALL, False), None, None, [])
        [run] = run_step(target, read_cameras(["50:2.5"]), load(0.5))
    finally:
        server.stop(0).wait()
    with pytest.raises(EngineError, match=f"{address}: failed to connect"):
        target.check()
    found = outcomes_of(run)
    step = describe_step([run.camera], [found], load(0.5))
    assert step["statuses"] == {
        "OK": 20, "DROPPED": 1, "EXPIRED": 1, "CONNECTION_LOST": 1, "INTERNAL": 1, "REFUSED": 1,
    }  # fmt: skip
    assert {each.engine_ms for each in found} == {0.25, None}
    assert (target.model, target.model_sha256) == ("segmenter", None)
    asked = servicer.requests[1]
    assert (asked.model_name, [each.name for each in asked.outputs]) == ("segmenter", ["MASK", "ENGINE_MS"])
    assert (asked.inputs[0].name, list(asked.inputs[0].shape)) == ("FRAME", [16, 24, 3])
    assert asked.parameters["timeout"].int64_param == 2500
    assert len(asked.raw_input_contents[0]) == 16 * 24 * 3
    assert servicer.callers == ["Bearer abc"] * 26


def test_a_model_and_its_tensors_are_chosen():
    assert kserve_model.choose_model(["echo", "agvas"]) == "agvas"
    assert kserve_model.choose_model(["echo", "echo"]) == "echo"
    for listed, shown in ((["a", "b"], "a, b"), ([], "it has none")):
        with pytest.raises(InputError, match=f"--model: found none, expected one of the server's models: {shown}"):
            kserve_model.choose_model(listed)
    several = metadata(
        [("A", "UINT8", [3]), ("B", "UINT8", [3]), ("IMAGE", "BYTES", [1]), ("TEXT", "BYTES", [1])], "XY"
    )
    assert kserve_model.choose_input(several, True, None).name == "IMAGE"
    assert kserve_model.choose_input(several, False, "B").name == "B"
    assert kserve_model.choose_outputs(several, []) == ["X", "Y"]
    assert kserve_model.choose_outputs(several, ["Y"]) == ["Y"]
    with pytest.raises(
        InputError, match="model segmenter: found 2 inputs of UINT8, expected one, or --input NAME: A UINT8"
    ):
        kserve_model.choose_input(several, False, None)
    with pytest.raises(InputError, match="--input: found 'TEXT', expected an input of UINT8 of model segmenter"):
        kserve_model.choose_input(several, False, "TEXT")
    with pytest.raises(InputError, match="--output: found 'Z', expected outputs of model segmenter: X, Y"):
        kserve_model.choose_outputs(several, ["Z"])


@pytest.mark.parametrize(
    ("encoded", "shape", "expected"),
    [
        (False, [-1, -1, 3], [16, 24, 3]),
        (False, [-1, 16, 24, 3], [1, 16, 24, 3]),
        (True, [1], [1]),
        (True, [-1, 1], [1, 1]),
        (False, [224, 224, 3], None),
        (False, [3, -1, -1], None),
        (False, [-1], None),
    ],
)
def test_a_frame_has_the_shape_that_the_model_takes(encoded, shape, expected):
    [picture, *_] = load_pictures([], SMALL, encoded)
    found = metadata([("X", "BYTES" if encoded else "UINT8", shape)])
    if expected is None:
        with pytest.raises(InputError, match=r"model segmenter, input X: found RGB frames of 16 x 24, .* expected \["):
            kserve_model.infer_request(found, found.inputs[0], [], picture, None)
        return
    request = kserve_model.infer_request(found, found.inputs[0], [], picture, None)
    assert list(request.inputs[0].shape) == expected
    [content] = request.raw_input_contents
    assert content == (len(picture.data).to_bytes(4, "little") if encoded else b"") + picture.data


def test_the_engines_time_is_read_wherever_it_is():
    def reply(*outputs, **parameters):
        made = oi.ModelInferResponse()
        for name, datatype, contents in outputs:
            made.outputs.add(name=name, datatype=datatype, contents=oi.InferTensorContents(**contents))
        for name, value in parameters.items():
            made.parameters[name].double_param = value
        return made

    single = reply(("ENGINE_MS", "FP32", {}))
    single.raw_output_contents.append(np.float32(1.5).tobytes())
    assert kserve_model.engine_ms_of(single) == 1.5
    assert kserve_model.engine_ms_of(reply(("ENGINE_MS", "FP64", {"fp64_contents": [2.5]}))) == 2.5
    assert kserve_model.engine_ms_of(reply(total_ms=5.0, decode_ms=1.0)) == 4.0
    assert kserve_model.engine_ms_of(reply(("MASK", "UINT8", {}))) is None
