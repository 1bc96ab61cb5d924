"""A web of tiny images, and a stream whose blocks are given one by one."""

from contextlib import suppress
from queue import SimpleQueue

import grpc
import numpy as np

from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.tiling import Tiling
from tests.runtime.live_server import DEFECT, IMAGES, NORMAL, WAIT_S

MOST_STREAMS = 4
SCAN = "/agvas.v1.Inspection/Scan"
TILING = Tiling(96, 128, 16)
WEB = np.concatenate([np.tile(IMAGES[number], (1, 2, 1)) for number in (DEFECT, NORMAL, DEFECT, 4, NORMAL, DEFECT)])
"""uint8 [540, 240, 3]: seven bands of two tiles."""
ROWS, WIDTH, _ = WEB.shape
STOP = pb.SegmentRequest(recipe=pb.Recipe(on_no_answer=pb.NO_ANSWER_ACTION_STOP))


class Scan:
    """A web's stream whose blocks are given one by one."""

    def __init__(self, live, *first: pb.ScanRequest, **fields) -> None:
        self._messages = SimpleQueue()
        for message in first or [opening(**fields)]:
            self._messages.put(message)
        self.call = live.inspection.Scan(iter(self._messages.get, None), timeout=WAIT_S)

    def send(self, *blocks) -> None:
        """Rows, or messages."""
        for block in blocks:
            self._messages.put(rows(block) if isinstance(block, np.ndarray) else block)

    def finish(self) -> None:
        self._messages.put(None)

    def close(self) -> None:
        self._messages.put(None)
        self.call.cancel()

    def until(self, kind: str) -> list[pb.ScanResponse]:
        """The events up to the first one of this kind."""
        events = []
        for event in self.call:
            events.append(event)
            if event.WhichOneof("event") == kind:
                break
        return events

    def next(self, kind: str):
        """The next event of this kind."""
        return getattr(self.until(kind)[-1], kind)

    def all(self, *kinds: str) -> list:
        """What comes of these kinds until the stream ends."""
        events = [(event.WhichOneof("event"), event) for event in self.call]
        return [getattr(event, kind) for kind, event in events if kind in kinds]

    def code(self) -> grpc.StatusCode:
        with suppress(grpc.RpcError):
            list(self.call)
        return self.call.code()


def opening(**fields) -> pb.ScanRequest:
    usual = {
        "camera_id": "web",
        "pixel_format": pb.PIXEL_FORMAT_RGB8,
        "width": WIDTH,
        "tile_height": TILING.height,
        "tile_width": TILING.width,
        "overlap": TILING.overlap,
    }
    return pb.ScanRequest(open=pb.ScanStream(**{**usual, **fields}))


def rows(pixels: np.ndarray, **fields) -> pb.ScanRequest:
    return pb.ScanRequest(rows=pb.RowBlock(**{"height": len(pixels), "data": pixels.tobytes(), **fields}))


def in_blocks(height: int) -> list[np.ndarray]:
    return [WEB[at : at + height] for at in range(0, ROWS, height)]


def place(defect) -> tuple:
    return defect.first_row, defect.last_row, defect.x0, defect.x1, defect.area_px
