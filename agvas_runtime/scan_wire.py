"""What a client says of a line-scan camera's web, and what it is told of it; how both travel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.apart import OF_SCAN, joined
from agvas_runtime.enums import FrameStatus, GateAction, gate_of, status_of
from agvas_runtime.errors import InputError
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb

Rows = NDArray[np.uint8] | NDArray[np.uint16]

_SHAPES: dict[str, tuple[str, tuple[int, ...]]] = {
    "MONO8": ("uint8", ()),
    "RGB8": ("uint8", (3,)),
    "BGR8": ("uint8", (3,)),
    "MONO10": ("uint16", ()),
    "MONO12": ("uint16", ()),
    "MONO16": ("uint16", ()),
}
"""Formats whose rows are arrays of pixels; of any other one they are arrays of bytes."""


@dataclass(frozen=True)
class WebSettings:
    """How a line-scan camera's stream is opened. What is None is left to the server, see docs/scan.md."""

    width: int
    """Pixels of a row."""
    pixel_format: str = "MONO8"
    camera_id: str = ""
    """Also chooses the camera's recipe."""
    tile_width: int | None = None
    tile_height: int | None = None
    overlap: int | None = None
    """Pixels that neighbouring tiles share."""
    mm_per_pixel: float | None = None
    mm_per_row: float | None = None
    """With both, defects have millimetres as well."""
    policy: Literal["block", "latest"] = "block"
    """Where rows come faster than the engine sustains: hold the sender back, or skip rows."""
    queue_rows: int | None = None
    """Rows that may wait."""
    longest_defect_rows: int | None = None
    """A longer defect is reported in pieces."""
    heartbeat_ms: int | None = None

    def message(self, defaults: pb.SegmentRequest) -> pb.ScanRequest:
        """The opening. Raises InputError for names that the protocol does not know."""
        values = {name: value for name, value in vars(self).items() if value is not None}
        for field, kind, prefix in (
            ("pixel_format", pb.PixelFormat, "PIXEL_FORMAT_"),
            ("policy", pb.QueuePolicy, "QUEUE_POLICY_"),
        ):
            name = f"{prefix}{values[field].upper()}"
            known = kind.keys()[1:]
            if name not in known:
                expected = ", ".join(each.removeprefix(prefix) for each in known)
                raise InputError(f"{field}: found {values[field]!r}, expected one of {expected}")
            values[field] = kind.Value(name)
        try:
            return pb.ScanRequest(open=pb.ScanStream(**values, defaults=defaults))
        except (ValueError, TypeError) as error:
            raise InputError(f"web: {error}") from None

    def block(self, rows: Rows, encoder_count: int | None = None) -> bytes:
        """The message of some rows, as it is sent: uint8 [n, W] or [n, W, 3], uint16 [n, W]; packed formats uint8
        [n, bytes].

        Raises InputError for an array of another kind.
        """
        name = self.pixel_format.upper()
        kind, inner = _SHAPES.get(name, ("uint8", ()))
        fits = rows.dtype.name == kind and rows.ndim == 2 + len(inner) and rows.shape[2:] == inner
        if not fits or (name in _SHAPES and rows.shape[1] != self.width):
            width = self.width if name in _SHAPES else "bytes"
            expected = f"{kind} {['n', width, *inner]}".replace("'", "")
            raise InputError(f"rows: found {rows.dtype} {list(rows.shape)}, expected {expected} of {self.pixel_format}")
        data = np.ascontiguousarray(rows, rows.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)
        try:
            block = pb.RowBlock(height=len(rows), encoder_count=encoder_count)
            return joined(pb.ScanRequest(rows=block), OF_SCAN, data.data)
        except (ValueError, TypeError) as error:
            raise InputError(f"rows: encoder_count: {error}") from None


@dataclass(frozen=True)
class DefectMm:
    """Where a defect lies, in millimetres from the outer edge of the web's first pixel."""

    x0: float
    x1: float
    centroid_x: float
    """Across the web."""
    y0: float
    y1: float
    centroid_y: float
    """Along the web."""
    area: float
    """In square millimetres."""


@dataclass(frozen=True)
class ScanDefect:
    """A defect of the web. Rows count from the web's first one, 0."""

    index: int
    first_row: int
    last_row: int
    """Both are the defect's own."""
    x0: int
    x1: int
    """Columns; x1 lies just outside."""
    centroid_x: float
    centroid_row: float
    area_px: int
    mean_score: float
    max_score: float
    begins_cut: bool
    ends_cut: bool
    """It may have begun earlier, or go on: rows there were skipped, or are another defect because it is too long."""
    encoder_count: int | None
    """Of the block in which it begins."""
    mm: DefectMm | None


@dataclass(frozen=True)
class ScanProgress:
    """Every defect that ends before row `rows_settled` has been reported."""

    rows_received: int
    rows_settled: int
    rows_skipped: int
    rows_per_s: float
    """What the engine sustains; 0 while that is not known."""
    rows_waiting: int


@dataclass(frozen=True)
class ScanSkipped:
    """Rows, or a part of their width, that were not inspected."""

    first_row: int
    rows: int
    """0 where nobody knows for how many a wrong message stood."""
    x0: int
    x1: int
    status: FrameStatus
    reason: str
    gate: GateAction | None
    """What the gate does with them; None where a newer server says what is not known here: the caller's own rule."""


@dataclass(frozen=True)
class ScanSummary:
    """The end of the web."""

    rows: int
    rows_skipped: int
    defects: int
    ignored: int
    """Parts of the mask that the recipe does not count."""
    tiles: int
    rows_per_s: float
    model_name: str
    bundle_sha256: str
    recipe_name: str


ScanEvent = ScanDefect | ScanProgress | ScanSkipped | ScanSummary


def event_from(message: pb.ScanResponse) -> ScanEvent | str:
    """What a message says; of a heartbeat the reason why no engine is ready, "" where one is."""
    kind = message.WhichOneof("event")
    if kind == "defect":
        defect = message.defect
        mm = DefectMm(**_values(DefectMm, defect.mm)) if defect.HasField("mm") else None
        count = defect.encoder_count if defect.HasField("encoder_count") else None
        return ScanDefect(**{**_values(ScanDefect, defect), "mm": mm, "encoder_count": count})
    if kind == "progress":
        return ScanProgress(**_values(ScanProgress, message.progress))
    if kind == "skipped":
        skipped = message.skipped
        status = status_of(skipped.status)
        gate = None if status == "unknown" else gate_of(skipped.gate)
        return ScanSkipped(**{**_values(ScanSkipped, skipped), "status": status, "gate": gate})
    if kind == "summary":
        summary, model = message.summary, message.summary.model
        names = ("rows", "rows_skipped", "defects", "ignored", "tiles", "rows_per_s", "recipe_name")
        values = {name: getattr(summary, name) for name in names}
        return ScanSummary(**values, model_name=model.name, bundle_sha256=model.bundle_sha256)
    return str(message.heartbeat.reason)


def _values(kind: Any, message: Any) -> dict[str, Any]:
    """The message's fields of the same names."""
    return {name: getattr(message, name) for name in kind.__dataclass_fields__}
