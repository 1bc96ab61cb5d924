"""The same as sync_client.py with grpc.aio and the stubs that protoc makes of the protocol: no code of agvas.

    python examples/python/asyncio_client.py part1.png part2.png

The stubs come with agvas; elsewhere they are made in the folder of this file, with `pip install grpcio-tools`:

    python -m grpc_tools.protoc -Iprotos --python_out=examples/python --grpc_python_out=examples/python \
        protos/agvas/v1/inspection.proto
"""

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path

import grpc

try:
    from agvas.v1 import inspection_pb2 as pb
    from agvas.v1 import inspection_pb2_grpc as pb_grpc
except ModuleNotFoundError:
    from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
    from agvas_runtime.proto.agvas.v1 import inspection_pb2_grpc as pb_grpc

SERVER = os.environ.get("AGVAS_SERVER", "127.0.0.1:50051")
DEADLINE_S = float(os.environ.get("AGVAS_DEADLINE_MS", "2000")) / 1000
CAMERA = "example"
GATE_WITHOUT_ANSWER = "reject"
"""What the gate does when the server says nothing that is known; the recipe's `on_no_answer` should be the same."""
VERDICTS = (pb.VERDICT_PASS, pb.VERDICT_REJECT, pb.VERDICT_NO_ANSWER)
GATES = {pb.GATE_PASS: "pass", pb.GATE_REJECT: "reject", pb.GATE_STOP: "stop"}
OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),  # gRPC's own would be two minutes
    ("grpc.keepalive_time_ms", 10_000),  # a machine that vanished without a word is noticed
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
]


class Line:
    """A camera's stream. It is opened again for the next part where it broke off or an answer was late."""

    def __init__(self, stub: pb_grpc.InspectionStub) -> None:
        self._stub = stub
        self._call: grpc.aio.StreamStreamCall | None = None
        self._reader: asyncio.Task[None] | None = None
        self._heard: asyncio.Queue[pb.SegmentResponse | str] = asyncio.Queue()
        """Answers, and at the end of the stream how it ended."""

    async def decide(self, request: pb.SegmentRequest) -> pb.SegmentResponse | str:
        """The server's answer, or why there is none by the deadline."""
        try:
            return await asyncio.wait_for(self._ask(request), DEADLINE_S)
        except (asyncio.TimeoutError, TimeoutError):
            reason = "no answer by the deadline"
        except ConnectionError as error:
            reason = str(error)
        self.close()
        return reason

    def close(self) -> None:
        """End the stream and give up what is on its way."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    async def _ask(self, request: pb.SegmentRequest) -> pb.SegmentResponse:
        with suppress(grpc.RpcError, asyncio.InvalidStateError):  # how the stream ended is heard below
            if self._call is None or not self._heard.empty():  # it ended between two parts
                await self._open()
            await self._call.write(pb.InspectRequest(frame=request))
        while not isinstance(found := await self._heard.get(), str):
            if found.identity.trigger_id == request.frame.identity.trigger_id:
                return found
        raise ConnectionError(found)

    async def _open(self) -> None:
        self.close()
        self._call, self._heard = self._stub.Inspect(wait_for_ready=True), asyncio.Queue()
        self._reader = asyncio.create_task(self._read(self._call, self._heard))
        defaults = pb.SegmentRequest(mask_format=pb.MASK_FORMAT_NONE)
        await self._call.write(pb.InspectRequest(open=pb.CameraStream(camera_id=CAMERA, defaults=defaults)))

    @staticmethod
    async def _read(call: grpc.aio.StreamStreamCall, heard: asyncio.Queue) -> None:
        """Goes on between two parts: gRPC tells of a stream's end once all that came before it has been read."""
        try:
            async for event in call:
                if event.WhichOneof("event") == "answer":  # heartbeats come between them, too: none for 3 s, no server
                    heard.put_nowait(event.answer)
            heard.put_nowait("the stream ended")
        except grpc.RpcError as error:
            heard.put_nowait(error.details() or error.code().name)


def request_for(image: Path, number: int) -> pb.SegmentRequest:
    """A frame with its identity, which comes back with the answer."""
    request = pb.SegmentRequest(frame=pb.Frame(encoded=image.read_bytes()))
    identity = request.frame.identity
    identity.part_id, identity.trigger_id = f"part-{number}", f"trigger-{number}"
    identity.sequence, identity.encoder_count = number, 4000 * number
    identity.capture_time.GetCurrentTime()
    return request


def name(enum: object, value: int, prefix: str) -> str:
    """An enum's value in words; a newer server may have more of them."""
    return enum.Name(value).removeprefix(prefix) if value in enum.values() else "UNKNOWN"


def known(found: pb.SegmentResponse) -> bool:
    """Whether all is known that decides about the part; else its gate must not be taken."""
    return found.status in pb.FrameStatus.values() and found.verdict in VERDICTS and found.gate in GATES


def told(found: pb.SegmentResponse | str) -> str:
    """Verdict, gate and defect area; a reason where there is no result."""
    if not isinstance(found, str) and not known(found):
        found = f"found status {found.status}, verdict {found.verdict}, gate {found.gate}"
    if isinstance(found, str):
        return f"NO_ANSWER, gate {GATE_WITHOUT_ANSWER}, 0 px: {found}"
    verdict = name(pb.Verdict, found.verdict, "VERDICT_")
    reason = f": {found.reason}" if verdict == "NO_ANSWER" else ""
    return f"{verdict}, gate {GATES[found.gate]}, {found.defect_area_px} px{reason}"


async def segment(stub: pb_grpc.InspectionStub, image: Path) -> pb.SegmentResponse | str:
    """One call for one image, without a stream."""
    try:
        request = pb.SegmentRequest(frame=pb.Frame(encoded=image.read_bytes()), mask_format=pb.MASK_FORMAT_NONE)
        return await stub.Segment(request, timeout=DEADLINE_S)
    except grpc.RpcError as error:
        return error.details() or error.code().name
    except OSError as error:
        return str(error)


async def main(arguments: list[str]) -> None:
    """One line a part."""
    async with grpc.aio.insecure_channel(SERVER, options=OPTIONS) as channel:
        stub, number = pb_grpc.InspectionStub(channel), 0
        line = Line(stub)
        while (given := await _next(arguments)) is not None:
            image, number = Path(given), number + 1
            if number == 1:
                print(f"segment {image.name}: {told(await segment(stub, image))}", flush=True)
            try:
                found = await line.decide(request_for(image, number))
            except OSError as error:  # no image: a part without an answer, as any other
                found = str(error)
            status = "LOST" if isinstance(found, str) else name(pb.FrameStatus, found.status, "FRAME_STATUS_")
            print(f"part-{number} trigger-{number}: {status} {told(found)}", flush=True)
        line.close()


async def _next(arguments: list[str]) -> str | None:
    """The next image: of the command line, or, where that named none, the next line of stdin."""
    if len(sys.argv) > 1:
        return arguments.pop(0) if arguments else None
    read = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    return read.rstrip("\n") if read else None


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
