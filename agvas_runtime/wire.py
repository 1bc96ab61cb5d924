"""What the client returns, and how it is read from protocol messages and written into them.

The server's half of the same work is in `server/requests.py` and `server/replies.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import numpy as np
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp
from numpy.typing import NDArray

from agvas_runtime import encoding
from agvas_runtime.contours import fill
from agvas_runtime.enums import FrameStatus as FrameStatus
from agvas_runtime.enums import GateAction, answer_kind_of, decision_of, status_of, verified_of
from agvas_runtime.errors import InputError
from agvas_runtime.frames import grey_of
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.regions import Region
from agvas_runtime.result import AnswerKind, Scores
from agvas_runtime.verdict import Recipe, Verdict
from agvas_runtime.writer import Decoding


@dataclass(frozen=True)
class RawFrame:
    """A frame's bytes as a camera laid them out."""

    data: bytes | memoryview
    width: int
    height: int
    pixel_format: str
    """As the protocol names it: MONO12P, BAYER_RG8."""
    stride: int = 0
    """Bytes from one row to the next; 0 where each row begins where the one before ends."""


ImageLike = str | Path | bytes | NDArray[np.uint8] | NDArray[np.uint16] | RawFrame
Polygons = tuple[NDArray[np.int64], ...]
"""Outlines of a mask, (x, y) of their corners [n, 2] each, see `contours`."""
LARGEST_UINT32 = 2**32 - 1
_BAYER = ("RG", "GR", "GB", "BG")
FORMATS: dict[tuple[str, tuple[int, ...]], tuple[str, ...]] = {
    ("uint8", ()): ("MONO8", *(f"BAYER_{pattern}8" for pattern in _BAYER)),
    ("uint8", (3,)): ("RGB8", "BGR8"),
    ("uint8", (4,)): ("RGBA8", "BGRA8"),
    ("uint16", ()): (
        "MONO16",
        "MONO12",
        "MONO10",
        *(f"BAYER_{each}{bits}" for bits in (16, 12, 10) for each in _BAYER),
    ),
}
"""What an array of this dtype may be, by its shape behind [H, W]; the first one where nothing is said."""


@dataclass(frozen=True)
class FrameIdentity:
    """Where a frame comes from; comes back with its answer."""

    camera_id: str = ""
    part_id: str = ""
    trigger_id: str = ""
    sequence: int | None = None
    encoder_count: int | None = None
    capture_time: datetime | None = None
    """With a time zone; microseconds are kept."""


_NOWHERE = FrameIdentity()


@dataclass(frozen=True)
class GroupMask:
    """The mask of one group of anchors."""

    index: int
    """Which group of the answer, from 0."""
    mask: NDArray[np.bool_] | None
    """bool [H, W]; None if not asked for."""
    probability: NDArray[np.float32] | None
    """float32 [H, W] in [0, 1]; None if not asked for."""
    polygons: Polygons | None = None
    """The mask's outlines, where it travelled as polygons."""


@dataclass(frozen=True)
class SegmentReply:
    """The server's answer to one frame. Names and units as in `Result`.

    Of a frame without a result only `status`, `verdict`, `reason`, `gate`, `identity` and `index` say anything.
    """

    verdict: Verdict
    reason: str
    gate: GateAction | None
    """What the gate does with the part, by the recipe. None where the server says what this client does not know: then
    the verdict is NO_ANSWER, and the gate does what the caller's own rule says."""
    answer: str
    answer_kind: AnswerKind
    confidence: float
    scores: Scores
    size: tuple[int, int]
    """(height, width) of the upright frame; (0, 0) where there is no result."""
    defect_area_px: int
    regions: tuple[Region, ...]
    mask: NDArray[np.bool_] | None
    """bool [H, W]; None if not asked for."""
    probability: NDArray[np.float32] | None
    """float32 [H, W] in [0, 1]; None if not asked for."""
    timings_ms: dict[str, float]
    """The segmenter's stages and `total`, and the server's `queue`, `encode` and `server`."""
    round_trip_ms: float
    """From the call to the reply, as the client saw it."""
    model_name: str
    bundle_sha256: str
    identity: FrameIdentity
    instruction: str
    tokens: int
    proved_tokens: int
    one_pass: bool
    verified: Literal["answer", "anchors"]
    rechecked: bool
    groups: tuple[GroupMask, ...]
    """Only where the answer holds several groups of anchors; `mask` covers them all."""
    polygons: Polygons | None = None
    """The mask's outlines, where it travelled as polygons."""
    status: FrameStatus = "ok"
    """What became of the frame: anything but "ok" is no result, "unknown" is what only a newer server knows."""
    index: int = 0
    """Of a stream: which of its frames this is the answer to, from 0."""
    recipe_name: str = ""
    """The server's recipe that was taken; empty for none."""


@dataclass(frozen=True)
class ModelInfo:
    """What the server has loaded."""

    name: str
    bundle_sha256: str
    licence: str
    checkpoint_sha256: str
    preset: str
    random_weights: bool
    default_instruction: str
    threshold: float
    alpha: float
    agvas_version: str
    graphs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Graph name to file, precision, opset and size_bytes."""
    parity: dict[str, Any] = field(default_factory=dict)
    templates: dict[str, int] = field(default_factory=dict)
    """How many of each kind of sentence the model knows."""


def put_head(frame: pb.Frame, image: ImageLike, pixel_format: str | None) -> NDArray[np.uint8]:
    """Say in a frame what an image is; returns its bytes, [n], which are those of `raw.data` where it is raw now, else
    of `encoded`. What is put into a message is copied with it.

    Raises InputError for an array of another kind or a file that cannot be read.
    """
    if isinstance(image, np.ndarray | RawFrame):
        return put_format(frame.raw, image, pixel_format).reshape(-1).view(np.uint8)
    if pixel_format is not None:
        raise InputError(f"pixel_format: found {pixel_format} for an image file, expected none")
    if isinstance(image, bytes):
        return np.frombuffer(image, np.uint8)
    try:
        return np.frombuffer(Path(image).read_bytes(), np.uint8)
    except TypeError:
        found = f"found {type(image).__name__}"
        raise InputError(f"image: {found}, expected an array, bytes, a path or a RawFrame") from None
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise InputError(f"{image}: {getattr(error, 'strerror', None) or error}") from None


def put_format(raw: pb.RawImage, image: NDArray[Any] | RawFrame, pixel_format: str | None) -> NDArray[Any]:
    """Say what an array of pixels is; returns it as its bytes are to be sent.

    Raises InputError for an array of another kind.
    """
    if isinstance(image, RawFrame):
        try:
            raw.height, raw.width, raw.stride = image.height, image.width, image.stride
        except (ValueError, TypeError) as error:
            sizes = f"width {image.width}, height {image.height}, stride {image.stride}"
            raise InputError(f"image: found {sizes}: {error}") from None
        raw.pixel_format = _format_number(image.pixel_format)
        try:
            return np.frombuffer(image.data, np.uint8)
        except (ValueError, TypeError, BufferError) as error:
            raise InputError(f"image: found data that are no bytes in one piece: {error}") from None
    if pixel_format is None and image.ndim == 3 and (grey := grey_of(image)) is not None:
        image = grey
    kind = (image.dtype.name, image.shape[2:])
    if image.ndim not in (2, 3) or kind not in FORMATS:
        expected = "expected uint8 [H, W, 3 or 4], uint8 [H, W] or uint16 [H, W]"
        raise InputError(f"image: found {image.dtype} {list(image.shape)}, {expected}")
    name = pixel_format or FORMATS[kind][0]
    if name not in FORMATS[kind]:
        raise InputError(f"pixel_format: found {name}, expected {' or '.join(FORMATS[kind])} for {image.dtype}")
    raw.height, raw.width = image.shape[:2]
    raw.pixel_format = _format_number(name)
    return np.ascontiguousarray(image, image.dtype.newbyteorder("<"))


def _format_number(name: str) -> pb.PixelFormat:
    """The protocol's number of a pixel format; raises InputError."""
    try:
        number: pb.PixelFormat = pb.PixelFormat.Value(f"PIXEL_FORMAT_{name}")
        return number
    except ValueError:
        known = ", ".join(key.removeprefix("PIXEL_FORMAT_") for key in pb.PixelFormat.keys()[1:])
        raise InputError(f"pixel_format: found {name}, expected one of {known}") from None


def identity_to(identity: FrameIdentity) -> pb.FrameIdentity:
    """The message of an identity."""
    message = pb.FrameIdentity(
        camera_id=identity.camera_id,
        part_id=identity.part_id,
        trigger_id=identity.trigger_id,
        sequence=identity.sequence,
        encoder_count=identity.encoder_count,
    )
    if identity.capture_time is not None:
        stamp = Timestamp()
        stamp.FromDatetime(identity.capture_time)
        message.capture_time.CopyFrom(stamp)
    return message


def put_identity(frame: pb.Frame, identity: FrameIdentity) -> None:
    """Say where a frame comes from; raises InputError for what the protocol cannot say."""
    try:
        frame.identity.CopyFrom(identity_to(identity))
    except (TypeError, ValueError):
        for name, value in vars(identity).items():
            try:
                identity_to(FrameIdentity(**{name: value}))
            except (TypeError, ValueError) as error:
                raise InputError(f"identity.{name}: found {value!r}: {error}") from None
        raise


def identity_from(message: pb.FrameIdentity) -> FrameIdentity:
    """The identity in a message."""
    return FrameIdentity(
        camera_id=message.camera_id,
        part_id=message.part_id,
        trigger_id=message.trigger_id,
        sequence=message.sequence if message.HasField("sequence") else None,
        encoder_count=message.encoder_count if message.HasField("encoder_count") else None,
        capture_time=message.capture_time.ToDatetime(timezone.utc) if message.HasField("capture_time") else None,
    )


def recipe_to(recipe: Recipe) -> pb.Recipe:
    """The message of what was set of a recipe; the rest is left to the server's own recipe, or to the defaults.

    Raises InputError for what is no recipe.
    """
    _check_kind("recipe", recipe, Recipe)
    message = pb.Recipe(**recipe.model_dump(exclude_unset=True, exclude={"on_no_answer", "roi"}))
    if "on_no_answer" in recipe.model_fields_set:
        message.on_no_answer = pb.NoAnswerAction.Value(f"NO_ANSWER_ACTION_{recipe.on_no_answer.upper()}")
    if recipe.roi is not None:
        x0, y0, x1, y1 = (min(each, LARGEST_UINT32) for each in recipe.roi)
        message.roi.CopyFrom(pb.Box(x0=x0, y0=y0, x1=x1, y1=y1))
    return message


def decoding_to(decoding: Decoding) -> pb.Decoding:
    """The message of what was set of how the answer is written. Raises InputError for what is no `Decoding`."""
    _check_kind("decoding", decoding, Decoding)
    return pb.Decoding(no_text=not decoding.text, **decoding.model_dump(exclude_unset=True, exclude={"text"}))


def _check_kind(field: str, found: object, kind: type) -> None:
    if not isinstance(found, kind):
        raise InputError(f"{field}: found a {type(found).__name__}, expected a {kind.__name__}")


def event_from(event: pb.ExplainEvent, round_trip_ms: float) -> str | GroupMask | SegmentReply:
    """A step of an answer that is being written, the round trip counted from the call to it."""
    kind = event.WhichOneof("event")
    if kind == "result":
        return reply_from(event.result, round_trip_ms)
    return _group_from(event.group) if kind == "group" else str(event.text)


def reply_from(reply: pb.SegmentResponse, round_trip_ms: float) -> SegmentReply:
    """What the client returns for a reply that took this long, whether there is a result in it or not."""
    size, model = (reply.height, reply.width), reply.model
    verdict, gate, reason = decision_of(reply)
    return SegmentReply(
        verdict=verdict,
        reason=reason,
        gate=gate,
        answer=reply.answer,
        answer_kind=answer_kind_of(reply.answer_kind),
        confidence=reply.confidence,
        scores=_scores_from(reply),
        size=size,
        defect_area_px=reply.defect_area_px,
        regions=tuple([_region_from(region) for region in reply.regions]),
        mask=_mask_from(reply.mask, size),
        probability=_probability_from(reply.probability, size),
        timings_ms={timing.stage: timing.ms for timing in reply.timings},
        round_trip_ms=round_trip_ms,
        model_name=model.name,
        bundle_sha256=model.bundle_sha256,
        identity=identity_from(reply.identity) if reply.identity.ByteSize() else _NOWHERE,
        instruction=reply.instruction,
        tokens=reply.tokens,
        proved_tokens=reply.proved_tokens,
        one_pass=reply.one_pass,
        verified=verified_of(reply.verified),
        rechecked=reply.rechecked,
        groups=tuple([_group_from(group) for group in reply.groups]),
        polygons=_polygons_from(reply.mask),
        status=status_of(reply.status),
        index=reply.index,
        recipe_name=reply.recipe_name,
    )


def _scores_from(reply: pb.SegmentResponse) -> Scores:
    if not reply.HasField("scores"):
        return Scores.unknown(0.0)
    scores = reply.scores
    return Scores(scores.p_answer, scores.p_reject, scores.p_other, scores.anomaly, scores.min_margin)


def _group_from(group: pb.GroupMask) -> GroupMask:
    size = (group.height, group.width)
    mask, polygons = _mask_from(group.mask, size), _polygons_from(group.mask)
    return GroupMask(group.index, mask, _probability_from(group.probability, size), polygons)


def _region_from(region: pb.Region) -> Region:
    box = region.box
    return Region(
        area_px=region.area_px,
        box=(box.x0, box.y0, box.x1, box.y1),
        centroid=(region.centroid_x, region.centroid_y),
        mean_score=region.mean_score,
        max_score=region.max_score,
    )


def _mask_from(mask: pb.Mask, size: tuple[int, int]) -> NDArray[np.bool_] | None:
    if mask.format == pb.MASK_FORMAT_PNG:
        return encoding.mask_from_png(mask.data)
    if mask.format == pb.MASK_FORMAT_PACKED_BITS:
        return encoding.mask_from_bits(mask.data, size)
    if mask.format == pb.MASK_FORMAT_COCO_RLE:
        return encoding.mask_from_rle(mask.data, size)
    polygons = _polygons_from(mask)
    return None if polygons is None else fill(polygons, size)


def _polygons_from(mask: pb.Mask) -> Polygons | None:
    if mask.format != pb.MASK_FORMAT_POLYGONS:
        return None
    return tuple(np.array(polygon.points, np.int64).reshape(-1, 2) for polygon in mask.polygons)


def _probability_from(probability: pb.ProbabilityMap, size: tuple[int, int]) -> NDArray[np.float32] | None:
    if probability.format == pb.PROBABILITY_FORMAT_FLOAT32:
        return encoding.probability_from_float32(probability.data, size)
    if probability.format == pb.PROBABILITY_FORMAT_FLOAT16:
        return encoding.probability_from_float16(probability.data, size)
    return encoding.probability_from_png16(probability.data) if probability.data else None


def model_from(reply: pb.GetModelResponse) -> ModelInfo:
    """The model in a reply."""
    names = ("licence", "checkpoint_sha256", "preset", "random_weights", "default_instruction")
    templates = ("direct_instructions", "direct_answers", "rejections", "class_names")
    graph_fields = ("file", "precision", "opset", "size_bytes")
    return ModelInfo(
        name=reply.model.name,
        bundle_sha256=reply.model.bundle_sha256,
        **{name: getattr(reply, name) for name in names},
        threshold=reply.threshold,
        alpha=reply.alpha,
        agvas_version=reply.agvas_version,
        graphs={graph.name: {name: getattr(graph, name) for name in graph_fields} for graph in reply.graphs},
        parity=MessageToDict(reply.parity),
        templates={name: getattr(reply.templates, name) for name in templates},
    )
