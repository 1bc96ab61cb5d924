"""Parts to the inspection server with agvas's own client: one decision for the gate a part, in time, whatever happens.

    python examples/python/sync_client.py part1.png part2.png

Without images on the command line, their paths are read from stdin, one a trigger. AGVAS_SERVER is `host:port`,
AGVAS_DEADLINE_MS the time that the gate can wait. Needs `pip install .` in the checkout and nothing of a model.
"""

import os
import queue
import sys
import threading
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from time import monotonic

from agvas_runtime.client import Client
from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.wire import FrameIdentity, SegmentReply

SERVER = os.environ.get("AGVAS_SERVER", "127.0.0.1:50051")
DEADLINE_S = float(os.environ.get("AGVAS_DEADLINE_MS", "2000")) / 1000
CAMERA = "example"
GATE_WITHOUT_ANSWER = "reject"
"""What the gate does when the server says nothing; the recipe's `on_no_answer` should be the same."""


class Line:
    """A camera's stream. It is opened again for the next part where it broke off or an answer was late."""

    def __init__(self) -> None:
        self._client: Client | None = None
        self._frames: queue.SimpleQueue[tuple[Path, FrameIdentity] | None] = queue.SimpleQueue()
        self._replies: queue.SimpleQueue[SegmentReply | Exception] = queue.SimpleQueue()

    def decide(self, image: Path, identity: FrameIdentity) -> SegmentReply | str:
        """The server's answer, or why there is none by the deadline."""
        end = monotonic() + DEADLINE_S
        try:
            if self._client is None or not self._replies.empty():  # the stream ended between two parts
                self._open()
            self._frames.put((image, identity))
            reply = self._replies.get(timeout=max(0.0, end - monotonic()))
            if isinstance(reply, Exception):
                raise reply
            if reply.identity.trigger_id != identity.trigger_id:
                raise EngineError(f"an answer to {reply.identity.trigger_id}")
        except queue.Empty:
            self.close()
            return "no answer by the deadline"
        except (EngineError, InputError) as error:
            self.close()
            return str(error)
        return reply

    def close(self) -> None:
        """End the stream and give up what is on its way."""
        self._frames.put(None)
        if self._client is not None:
            self._client.close()
            self._client = None

    def _open(self) -> None:
        self.close()
        self._client = Client(SERVER)
        self._frames, self._replies = queue.SimpleQueue(), queue.SimpleQueue()
        self._client.wait_ready(DEADLINE_S)
        reader = threading.Thread(target=self._read, args=(self._client, self._frames, self._replies), daemon=True)
        reader.start()

    @staticmethod
    def _read(client: Client, frames: queue.SimpleQueue, replies: queue.SimpleQueue) -> None:
        try:
            for reply in client.inspect(iter(frames.get, None), camera_id=CAMERA, mask="none"):
                replies.put(reply)
            replies.put(EngineError("the stream ended"))
        except Exception as error:
            replies.put(error)


def told(found: SegmentReply | str) -> str:
    """Verdict, gate and defect area; a reason where there is no result."""
    if isinstance(found, str):
        return f"NO_ANSWER, gate {GATE_WITHOUT_ANSWER}, 0 px: {found}"
    reason = f": {found.reason}" if found.verdict.value == "NO_ANSWER" else ""
    gate = found.gate or GATE_WITHOUT_ANSWER  # none where a newer server says what this client does not know
    return f"{found.verdict.value}, gate {gate}, {found.defect_area_px} px{reason}"


def segment(image: Path) -> SegmentReply | str:
    """One call for one image, without a stream."""
    try:
        with Client(SERVER) as client:
            return client.segment(image, mask="none", timeout_s=DEADLINE_S)
    except (EngineError, InputError) as error:
        return str(error)


def main(paths: Iterable[str]) -> None:
    """One line a part."""
    line = Line()
    for number, path in enumerate(map(Path, paths), 1):
        if number == 1:
            print(f"segment {path.name}: {told(segment(path))}", flush=True)
        identity = FrameIdentity(
            part_id=f"part-{number}",
            trigger_id=f"trigger-{number}",
            sequence=number,
            encoder_count=4000 * number,  # where the part was when it was seen: the gate fires so many counts later
            capture_time=datetime.now(timezone.utc),
        )
        found = line.decide(path, identity)
        status = "LOST" if isinstance(found, str) else found.status.upper()
        print(f"{identity.part_id} {identity.trigger_id}: {status} {told(found)}", flush=True)
    line.close()


if __name__ == "__main__":
    main(sys.argv[1:] or (each.rstrip("\n") for each in sys.stdin))
