"""What became of the frames of every camera, as `Admin.GetStatistics` tells it. Metrics count by themselves."""

from __future__ import annotations

from collections import Counter
from threading import Lock

from agvas_runtime.proto.agvas.v1 import admin_pb2
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.server.metrics import Names


class Cameras:
    """Frames and verdicts of every camera, since the start."""

    def __init__(self) -> None:
        self._names = Names()
        self._counts: dict[str, Counter[str]] = {}
        self._open: Counter[str] = Counter()
        self._lock = Lock()

    def count(self, reply: pb.SegmentResponse) -> None:
        """Count an answer."""
        status, verdict = pb.FrameStatus.Name(reply.status), pb.Verdict.Name(reply.verdict)
        name = self._names.of(reply.identity.camera_id)
        with self._lock:
            counts = self._counts.setdefault(name, Counter())
            counts[status] += 1
            counts[verdict] += 1

    def opened(self, camera_id: str, by: int) -> None:
        """Count a stream that opens (1) or closes (-1)."""
        name = self._names.of(camera_id)
        with self._lock:
            self._counts.setdefault(name, Counter())
            self._open[name] += by

    def states(self) -> list[admin_pb2.CameraState]:
        """Every camera's figures."""
        with self._lock:
            return [
                admin_pb2.CameraState(
                    camera_id=name,
                    frames=_of("FRAME_STATUS_", counts),
                    verdicts=_of("VERDICT_", counts),
                    connected=self._open[name] > 0,
                )
                for name, counts in sorted(self._counts.items())
            ]


def _of(prefix: str, counts: Counter[str]) -> dict[str, int]:
    return {name.removeprefix(prefix): count for name, count in counts.items() if name.startswith(prefix)}
