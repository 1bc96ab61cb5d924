"""The ways to have agvas and Triton answer a frame with its mask. What they cost is taken by `serving_overhead.py`."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput, service_pb2
from tritonclient.utils import shared_memory

from agvas_runtime.asked import MaskChoice
from agvas_runtime.client import Client
from agvas_runtime.encoding import mask_from_bits
from agvas_runtime.local_client import LocalClient
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb

STAGES = ("preprocess", "encoders", "spam", "llm", "text", "decoder", "postprocess")
"""The engine's own, of a reply's timings. Everything else is what serving adds, decoding included."""
SEGMENT = "/agvas.v1.Inspection/Segment"
MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True)
class Answer:
    """What a server answers.

    Attributes:
        engine_ms: its engine's time for this very frame, by the server's clock.
        mask: bool [H, W]; None if it was not asked for.
        beside_ms: the stages that are not the engine's, where the server tells them.
    """

    engine_ms: float
    mask: NDArray[np.bool_] | None
    beside_ms: Mapping[str, float] = field(default_factory=dict)


Frame = NDArray[np.uint8]
"""RGB [H, W, 3]."""
Ask = Callable[[Frame], Answer]


@dataclass(frozen=True)
class Sample:
    """A request: how long it took whoever asked, and the answer."""

    round_trip_ms: float
    answer: Answer

    @property
    def adds_ms(self) -> float:
        """What is not the engine's."""
        return self.round_trip_ms - self.answer.engine_ms


def agvas(client: Client | LocalClient, mask: MaskChoice) -> Ask:
    """Ask agvas through its client, from array to array."""

    def ask(frame: Frame) -> Answer:
        reply = client.segment(frame, mask=mask)
        return _answer(reply.timings_ms, reply.mask)

    return ask


def triton(client: InferenceServerClient, *, model: str = "segmenter", with_mask: bool = True) -> Ask:
    """Ask Triton through its client, from array to array."""
    outputs = _outputs(with_mask)

    def ask(frame: Frame) -> Answer:
        tensor = InferInput("FRAME", list(frame.shape), "UINT8")
        tensor.set_data_from_numpy(frame)
        return _triton_answer(client.infer(model, [tensor], outputs=outputs), frame.shape[1])

    return ask


@contextmanager
def triton_shared(client: InferenceServerClient, frame_bytes: int) -> Iterator[Ask]:
    """Ask Triton with the frame in memory that client and server share: for clients on the server's own machine."""
    name, key, outputs = "frame", f"/agvas-serving-{time.time_ns()}", _outputs(True)
    region = shared_memory.create_shared_memory_region(name, key, frame_bytes)

    def ask(frame: Frame) -> Answer:
        shared_memory.set_shared_memory_region(region, [frame])
        tensor = InferInput("FRAME", list(frame.shape), "UINT8")
        tensor.set_shared_memory(name, frame_bytes)
        return _triton_answer(client.infer("segmenter", [tensor], outputs=outputs), frame.shape[1])

    try:
        client.register_system_shared_memory(name, key, frame_bytes)
        yield ask
        client.unregister_system_shared_memory(name)
    finally:
        shared_memory.destroy_shared_memory_region(region)


def agvas_messages(channel: grpc.Channel, frames: Sequence[Frame]) -> Ask:
    """Ask agvas with messages that are ready to be sent, one for each of the frames: the client's work left out."""
    ready, call = {}, channel.unary_unary(SEGMENT, response_deserializer=pb.SegmentResponse.FromString)
    for frame in frames:
        message = pb.SegmentRequest(mask_format=pb.MASK_FORMAT_PACKED_BITS)
        raw = message.frame.raw
        raw.pixel_format, raw.height, raw.width = pb.PIXEL_FORMAT_RGB8, *frame.shape[:2]
        raw.data = frame.tobytes()
        ready[id(frame)] = message.SerializeToString()

    def ask(frame: Frame) -> Answer:
        reply = call(ready[id(frame)])
        timings_ms = {timing.stage: timing.ms for timing in reply.timings}
        return _answer(timings_ms, mask_from_bits(reply.mask.data, (reply.height, reply.width)))

    return ask


def triton_messages(channel: grpc.Channel, frames: Sequence[Frame]) -> Ask:
    """Ask Triton with messages that are ready to be sent, one for each of the frames: the client's work left out."""
    ready, call = {}, channel.unary_unary(MODEL_INFER, response_deserializer=service_pb2.ModelInferResponse.FromString)
    for frame in frames:
        message = service_pb2.ModelInferRequest(model_name="segmenter", raw_input_contents=[frame.tobytes()])
        message.inputs.add(name="FRAME", datatype="UINT8", shape=frame.shape)
        ready[id(frame)] = message.SerializeToString()

    def ask(frame: Frame) -> Answer:
        reply = call(ready[id(frame)])
        data = {output.name: raw for output, raw in zip(reply.outputs, reply.raw_output_contents, strict=True)}
        return Answer(float(np.frombuffer(data["ENGINE_MS"])[0]), mask_from_bits(data["MASK"], frame.shape[:2]))

    return ask


def in_turns(asks: Mapping[str, Ask], frames: Sequence[Frame], count: int) -> dict[str, list[Sample]]:
    """Have each asked for `count` frames, all for one frame before the first is asked for the next."""
    samples: dict[str, list[Sample]] = {name: [] for name in asks}
    for index in range(count):
        for name, ask in asks.items():
            began = time.perf_counter()
            answer = ask(frames[index % len(frames)])
            samples[name].append(Sample((time.perf_counter() - began) * 1e3, answer))
    return samples


def check_same(samples: Mapping[str, Sequence[Sample]]) -> None:
    """End the program where the answers to a frame hold different masks."""
    for answers in zip(*samples.values(), strict=True):
        first, *others = (each.answer.mask for each in answers)
        if not all(np.array_equal(first, other) for other in others):
            sys.exit(f"{', '.join(samples)}: answered a frame with different masks")


def _answer(timings_ms: Mapping[str, float], mask: NDArray[np.bool_] | None) -> Answer:
    beside_ms = {stage: ms for stage, ms in timings_ms.items() if stage not in STAGES}
    return Answer(sum(timings_ms[stage] for stage in STAGES), mask, beside_ms)


def _outputs(with_mask: bool) -> list[InferRequestedOutput]:
    return [InferRequestedOutput(name) for name in (("ENGINE_MS", "MASK") if with_mask else ("ENGINE_MS",))]


def _triton_answer(result: Any, width: int) -> Answer:
    bits = result.as_numpy("MASK")
    mask = None if bits is None else np.unpackbits(bits, axis=1, count=width).view(np.bool_)
    return Answer(float(result.as_numpy("ENGINE_MS")[0]), mask)
