from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PixelFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PIXEL_FORMAT_UNSPECIFIED: _ClassVar[PixelFormat]
    PIXEL_FORMAT_MONO8: _ClassVar[PixelFormat]
    PIXEL_FORMAT_MONO10: _ClassVar[PixelFormat]
    PIXEL_FORMAT_MONO12: _ClassVar[PixelFormat]
    PIXEL_FORMAT_MONO16: _ClassVar[PixelFormat]
    PIXEL_FORMAT_RGB8: _ClassVar[PixelFormat]
    PIXEL_FORMAT_BGR8: _ClassVar[PixelFormat]
    PIXEL_FORMAT_MONO10P: _ClassVar[PixelFormat]
    PIXEL_FORMAT_MONO12P: _ClassVar[PixelFormat]
    PIXEL_FORMAT_MONO10_PACKED: _ClassVar[PixelFormat]
    PIXEL_FORMAT_MONO12_PACKED: _ClassVar[PixelFormat]
    PIXEL_FORMAT_BAYER_RG8: _ClassVar[PixelFormat]
    PIXEL_FORMAT_BAYER_GR8: _ClassVar[PixelFormat]
    PIXEL_FORMAT_BAYER_GB8: _ClassVar[PixelFormat]
    PIXEL_FORMAT_BAYER_BG8: _ClassVar[PixelFormat]
    PIXEL_FORMAT_BAYER_RG10: _ClassVar[PixelFormat]
    PIXEL_FORMAT_BAYER_GR10: _ClassVar[PixelFormat]
    PIXEL_FORMAT_BAYER_GB10: _ClassVar[PixelFormat]
    PIXEL_FORMAT_BAYER_BG10: _ClassVar[PixelFormat]
    PIXEL_FORMAT_BAYER_RG12: _ClassVar[PixelFormat]
    PIXEL_FORMAT_BAYER_GR12: _ClassVar[PixelFormat]
    PIXEL_FORMAT_BAYER_GB12: _ClassVar[PixelFormat]
    PIXEL_FORMAT_BAYER_BG12: _ClassVar[PixelFormat]
    PIXEL_FORMAT_BAYER_RG16: _ClassVar[PixelFormat]
    PIXEL_FORMAT_BAYER_GR16: _ClassVar[PixelFormat]
    PIXEL_FORMAT_BAYER_GB16: _ClassVar[PixelFormat]
    PIXEL_FORMAT_BAYER_BG16: _ClassVar[PixelFormat]
    PIXEL_FORMAT_YUV422_UYVY: _ClassVar[PixelFormat]
    PIXEL_FORMAT_YUV422_YUYV: _ClassVar[PixelFormat]
    PIXEL_FORMAT_RGBA8: _ClassVar[PixelFormat]
    PIXEL_FORMAT_BGRA8: _ClassVar[PixelFormat]

class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODE_UNSPECIFIED: _ClassVar[Mode]
    MODE_DIRECT: _ClassVar[Mode]
    MODE_DESCRIBE: _ClassVar[Mode]
    MODE_DESCRIBE_PLUS: _ClassVar[Mode]
    MODE_EXPLAIN: _ClassVar[Mode]
    MODE_FINE_GRAINED: _ClassVar[Mode]
    MODE_CONVERSATION: _ClassVar[Mode]
    MODE_GENERAL: _ClassVar[Mode]

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_PASS: _ClassVar[Verdict]
    VERDICT_REJECT: _ClassVar[Verdict]
    VERDICT_NO_ANSWER: _ClassVar[Verdict]

class NoAnswerAction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NO_ANSWER_ACTION_UNSPECIFIED: _ClassVar[NoAnswerAction]
    NO_ANSWER_ACTION_REJECT: _ClassVar[NoAnswerAction]
    NO_ANSWER_ACTION_PASS: _ClassVar[NoAnswerAction]
    NO_ANSWER_ACTION_STOP: _ClassVar[NoAnswerAction]

class Gate(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GATE_UNSPECIFIED: _ClassVar[Gate]
    GATE_PASS: _ClassVar[Gate]
    GATE_REJECT: _ClassVar[Gate]
    GATE_STOP: _ClassVar[Gate]

class AnswerKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ANSWER_KIND_UNSPECIFIED: _ClassVar[AnswerKind]
    ANSWER_KIND_SEGMENTED: _ClassVar[AnswerKind]
    ANSWER_KIND_REJECTED: _ClassVar[AnswerKind]
    ANSWER_KIND_OTHER: _ClassVar[AnswerKind]

class Verified(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERIFIED_UNSPECIFIED: _ClassVar[Verified]
    VERIFIED_ANSWER: _ClassVar[Verified]
    VERIFIED_ANCHORS: _ClassVar[Verified]

class MaskFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MASK_FORMAT_UNSPECIFIED: _ClassVar[MaskFormat]
    MASK_FORMAT_NONE: _ClassVar[MaskFormat]
    MASK_FORMAT_PNG: _ClassVar[MaskFormat]
    MASK_FORMAT_PACKED_BITS: _ClassVar[MaskFormat]
    MASK_FORMAT_COCO_RLE: _ClassVar[MaskFormat]
    MASK_FORMAT_POLYGONS: _ClassVar[MaskFormat]

class ProbabilityFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PROBABILITY_FORMAT_UNSPECIFIED: _ClassVar[ProbabilityFormat]
    PROBABILITY_FORMAT_NONE: _ClassVar[ProbabilityFormat]
    PROBABILITY_FORMAT_FLOAT32: _ClassVar[ProbabilityFormat]
    PROBABILITY_FORMAT_PNG16: _ClassVar[ProbabilityFormat]
    PROBABILITY_FORMAT_FLOAT16: _ClassVar[ProbabilityFormat]

class FrameStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FRAME_STATUS_UNSPECIFIED: _ClassVar[FrameStatus]
    FRAME_STATUS_OK: _ClassVar[FrameStatus]
    FRAME_STATUS_DROPPED: _ClassVar[FrameStatus]
    FRAME_STATUS_EXPIRED: _ClassVar[FrameStatus]
    FRAME_STATUS_INVALID: _ClassVar[FrameStatus]
    FRAME_STATUS_ENGINE_FAILED: _ClassVar[FrameStatus]
    FRAME_STATUS_REFUSED: _ClassVar[FrameStatus]

class QueuePolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    QUEUE_POLICY_UNSPECIFIED: _ClassVar[QueuePolicy]
    QUEUE_POLICY_LATEST: _ClassVar[QueuePolicy]
    QUEUE_POLICY_BLOCK: _ClassVar[QueuePolicy]
PIXEL_FORMAT_UNSPECIFIED: PixelFormat
PIXEL_FORMAT_MONO8: PixelFormat
PIXEL_FORMAT_MONO10: PixelFormat
PIXEL_FORMAT_MONO12: PixelFormat
PIXEL_FORMAT_MONO16: PixelFormat
PIXEL_FORMAT_RGB8: PixelFormat
PIXEL_FORMAT_BGR8: PixelFormat
PIXEL_FORMAT_MONO10P: PixelFormat
PIXEL_FORMAT_MONO12P: PixelFormat
PIXEL_FORMAT_MONO10_PACKED: PixelFormat
PIXEL_FORMAT_MONO12_PACKED: PixelFormat
PIXEL_FORMAT_BAYER_RG8: PixelFormat
PIXEL_FORMAT_BAYER_GR8: PixelFormat
PIXEL_FORMAT_BAYER_GB8: PixelFormat
PIXEL_FORMAT_BAYER_BG8: PixelFormat
PIXEL_FORMAT_BAYER_RG10: PixelFormat
PIXEL_FORMAT_BAYER_GR10: PixelFormat
PIXEL_FORMAT_BAYER_GB10: PixelFormat
PIXEL_FORMAT_BAYER_BG10: PixelFormat
PIXEL_FORMAT_BAYER_RG12: PixelFormat
PIXEL_FORMAT_BAYER_GR12: PixelFormat
PIXEL_FORMAT_BAYER_GB12: PixelFormat
PIXEL_FORMAT_BAYER_BG12: PixelFormat
PIXEL_FORMAT_BAYER_RG16: PixelFormat
PIXEL_FORMAT_BAYER_GR16: PixelFormat
PIXEL_FORMAT_BAYER_GB16: PixelFormat
PIXEL_FORMAT_BAYER_BG16: PixelFormat
PIXEL_FORMAT_YUV422_UYVY: PixelFormat
PIXEL_FORMAT_YUV422_YUYV: PixelFormat
PIXEL_FORMAT_RGBA8: PixelFormat
PIXEL_FORMAT_BGRA8: PixelFormat
MODE_UNSPECIFIED: Mode
MODE_DIRECT: Mode
MODE_DESCRIBE: Mode
MODE_DESCRIBE_PLUS: Mode
MODE_EXPLAIN: Mode
MODE_FINE_GRAINED: Mode
MODE_CONVERSATION: Mode
MODE_GENERAL: Mode
VERDICT_UNSPECIFIED: Verdict
VERDICT_PASS: Verdict
VERDICT_REJECT: Verdict
VERDICT_NO_ANSWER: Verdict
NO_ANSWER_ACTION_UNSPECIFIED: NoAnswerAction
NO_ANSWER_ACTION_REJECT: NoAnswerAction
NO_ANSWER_ACTION_PASS: NoAnswerAction
NO_ANSWER_ACTION_STOP: NoAnswerAction
GATE_UNSPECIFIED: Gate
GATE_PASS: Gate
GATE_REJECT: Gate
GATE_STOP: Gate
ANSWER_KIND_UNSPECIFIED: AnswerKind
ANSWER_KIND_SEGMENTED: AnswerKind
ANSWER_KIND_REJECTED: AnswerKind
ANSWER_KIND_OTHER: AnswerKind
VERIFIED_UNSPECIFIED: Verified
VERIFIED_ANSWER: Verified
VERIFIED_ANCHORS: Verified
MASK_FORMAT_UNSPECIFIED: MaskFormat
MASK_FORMAT_NONE: MaskFormat
MASK_FORMAT_PNG: MaskFormat
MASK_FORMAT_PACKED_BITS: MaskFormat
MASK_FORMAT_COCO_RLE: MaskFormat
MASK_FORMAT_POLYGONS: MaskFormat
PROBABILITY_FORMAT_UNSPECIFIED: ProbabilityFormat
PROBABILITY_FORMAT_NONE: ProbabilityFormat
PROBABILITY_FORMAT_FLOAT32: ProbabilityFormat
PROBABILITY_FORMAT_PNG16: ProbabilityFormat
PROBABILITY_FORMAT_FLOAT16: ProbabilityFormat
FRAME_STATUS_UNSPECIFIED: FrameStatus
FRAME_STATUS_OK: FrameStatus
FRAME_STATUS_DROPPED: FrameStatus
FRAME_STATUS_EXPIRED: FrameStatus
FRAME_STATUS_INVALID: FrameStatus
FRAME_STATUS_ENGINE_FAILED: FrameStatus
FRAME_STATUS_REFUSED: FrameStatus
QUEUE_POLICY_UNSPECIFIED: QueuePolicy
QUEUE_POLICY_LATEST: QueuePolicy
QUEUE_POLICY_BLOCK: QueuePolicy

class FrameIdentity(_message.Message):
    __slots__ = ("camera_id", "part_id", "trigger_id", "sequence", "encoder_count", "capture_time")
    CAMERA_ID_FIELD_NUMBER: _ClassVar[int]
    PART_ID_FIELD_NUMBER: _ClassVar[int]
    TRIGGER_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ENCODER_COUNT_FIELD_NUMBER: _ClassVar[int]
    CAPTURE_TIME_FIELD_NUMBER: _ClassVar[int]
    camera_id: str
    part_id: str
    trigger_id: str
    sequence: int
    encoder_count: int
    capture_time: _timestamp_pb2.Timestamp
    def __init__(self, camera_id: _Optional[str] = ..., part_id: _Optional[str] = ..., trigger_id: _Optional[str] = ..., sequence: _Optional[int] = ..., encoder_count: _Optional[int] = ..., capture_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class RawImage(_message.Message):
    __slots__ = ("pixel_format", "width", "height", "stride", "data")
    PIXEL_FORMAT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    STRIDE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    pixel_format: PixelFormat
    width: int
    height: int
    stride: int
    data: bytes
    def __init__(self, pixel_format: _Optional[_Union[PixelFormat, str]] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., stride: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("identity", "raw", "encoded")
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    ENCODED_FIELD_NUMBER: _ClassVar[int]
    identity: FrameIdentity
    raw: RawImage
    encoded: bytes
    def __init__(self, identity: _Optional[_Union[FrameIdentity, _Mapping]] = ..., raw: _Optional[_Union[RawImage, _Mapping]] = ..., encoded: _Optional[bytes] = ...) -> None: ...

class Recipe(_message.Message):
    __slots__ = ("min_area_px", "min_score", "on_no_answer", "threshold", "alpha", "roi")
    MIN_AREA_PX_FIELD_NUMBER: _ClassVar[int]
    MIN_SCORE_FIELD_NUMBER: _ClassVar[int]
    ON_NO_ANSWER_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    ROI_FIELD_NUMBER: _ClassVar[int]
    min_area_px: int
    min_score: float
    on_no_answer: NoAnswerAction
    threshold: float
    alpha: float
    roi: Box
    def __init__(self, min_area_px: _Optional[int] = ..., min_score: _Optional[float] = ..., on_no_answer: _Optional[_Union[NoAnswerAction, str]] = ..., threshold: _Optional[float] = ..., alpha: _Optional[float] = ..., roi: _Optional[_Union[Box, _Mapping]] = ...) -> None: ...

class Decoding(_message.Message):
    __slots__ = ("no_text", "max_new_tokens", "temperature", "top_p", "seed", "strict_below")
    NO_TEXT_FIELD_NUMBER: _ClassVar[int]
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    STRICT_BELOW_FIELD_NUMBER: _ClassVar[int]
    no_text: bool
    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    strict_below: float
    def __init__(self, no_text: bool = ..., max_new_tokens: _Optional[int] = ..., temperature: _Optional[float] = ..., top_p: _Optional[float] = ..., seed: _Optional[int] = ..., strict_below: _Optional[float] = ...) -> None: ...

class SegmentRequest(_message.Message):
    __slots__ = ("frame", "instruction", "recipe", "mask_format", "probability_format", "mode", "class_name", "normal_look", "decoding", "recipe_name", "deadline_ms")
    FRAME_FIELD_NUMBER: _ClassVar[int]
    INSTRUCTION_FIELD_NUMBER: _ClassVar[int]
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    MASK_FORMAT_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FORMAT_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAME_FIELD_NUMBER: _ClassVar[int]
    NORMAL_LOOK_FIELD_NUMBER: _ClassVar[int]
    DECODING_FIELD_NUMBER: _ClassVar[int]
    RECIPE_NAME_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    frame: Frame
    instruction: str
    recipe: Recipe
    mask_format: MaskFormat
    probability_format: ProbabilityFormat
    mode: Mode
    class_name: str
    normal_look: str
    decoding: Decoding
    recipe_name: str
    deadline_ms: float
    def __init__(self, frame: _Optional[_Union[Frame, _Mapping]] = ..., instruction: _Optional[str] = ..., recipe: _Optional[_Union[Recipe, _Mapping]] = ..., mask_format: _Optional[_Union[MaskFormat, str]] = ..., probability_format: _Optional[_Union[ProbabilityFormat, str]] = ..., mode: _Optional[_Union[Mode, str]] = ..., class_name: _Optional[str] = ..., normal_look: _Optional[str] = ..., decoding: _Optional[_Union[Decoding, _Mapping]] = ..., recipe_name: _Optional[str] = ..., deadline_ms: _Optional[float] = ...) -> None: ...

class CameraStream(_message.Message):
    __slots__ = ("camera_id", "policy", "queue", "defaults", "heartbeat_ms")
    CAMERA_ID_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    DEFAULTS_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_MS_FIELD_NUMBER: _ClassVar[int]
    camera_id: str
    policy: QueuePolicy
    queue: int
    defaults: SegmentRequest
    heartbeat_ms: int
    def __init__(self, camera_id: _Optional[str] = ..., policy: _Optional[_Union[QueuePolicy, str]] = ..., queue: _Optional[int] = ..., defaults: _Optional[_Union[SegmentRequest, _Mapping]] = ..., heartbeat_ms: _Optional[int] = ...) -> None: ...

class InspectRequest(_message.Message):
    __slots__ = ("open", "frame")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    open: CameraStream
    frame: SegmentRequest
    def __init__(self, open: _Optional[_Union[CameraStream, _Mapping]] = ..., frame: _Optional[_Union[SegmentRequest, _Mapping]] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("serving", "waiting", "reason")
    SERVING_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    serving: bool
    waiting: int
    reason: str
    def __init__(self, serving: bool = ..., waiting: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class InspectResponse(_message.Message):
    __slots__ = ("answer", "heartbeat")
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    answer: SegmentResponse
    heartbeat: Heartbeat
    def __init__(self, answer: _Optional[_Union[SegmentResponse, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ...) -> None: ...

class SegmentResponse(_message.Message):
    __slots__ = ("identity", "verdict", "reason", "gate", "answer", "answer_kind", "confidence", "scores", "width", "height", "defect_area_px", "regions", "mask", "probability", "timings", "model", "tokens", "proved_tokens", "one_pass", "verified", "rechecked", "groups", "instruction", "status", "index", "recipe_name")
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    GATE_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    ANSWER_KIND_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    DEFECT_AREA_PX_FIELD_NUMBER: _ClassVar[int]
    REGIONS_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROVED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ONE_PASS_FIELD_NUMBER: _ClassVar[int]
    VERIFIED_FIELD_NUMBER: _ClassVar[int]
    RECHECKED_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    INSTRUCTION_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    RECIPE_NAME_FIELD_NUMBER: _ClassVar[int]
    identity: FrameIdentity
    verdict: Verdict
    reason: str
    gate: Gate
    answer: str
    answer_kind: AnswerKind
    confidence: float
    scores: Scores
    width: int
    height: int
    defect_area_px: int
    regions: _containers.RepeatedCompositeFieldContainer[Region]
    mask: Mask
    probability: ProbabilityMap
    timings: _containers.RepeatedCompositeFieldContainer[StageTiming]
    model: ModelIdentity
    tokens: int
    proved_tokens: int
    one_pass: bool
    verified: Verified
    rechecked: bool
    groups: _containers.RepeatedCompositeFieldContainer[GroupMask]
    instruction: str
    status: FrameStatus
    index: int
    recipe_name: str
    def __init__(self, identity: _Optional[_Union[FrameIdentity, _Mapping]] = ..., verdict: _Optional[_Union[Verdict, str]] = ..., reason: _Optional[str] = ..., gate: _Optional[_Union[Gate, str]] = ..., answer: _Optional[str] = ..., answer_kind: _Optional[_Union[AnswerKind, str]] = ..., confidence: _Optional[float] = ..., scores: _Optional[_Union[Scores, _Mapping]] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., defect_area_px: _Optional[int] = ..., regions: _Optional[_Iterable[_Union[Region, _Mapping]]] = ..., mask: _Optional[_Union[Mask, _Mapping]] = ..., probability: _Optional[_Union[ProbabilityMap, _Mapping]] = ..., timings: _Optional[_Iterable[_Union[StageTiming, _Mapping]]] = ..., model: _Optional[_Union[ModelIdentity, _Mapping]] = ..., tokens: _Optional[int] = ..., proved_tokens: _Optional[int] = ..., one_pass: bool = ..., verified: _Optional[_Union[Verified, str]] = ..., rechecked: bool = ..., groups: _Optional[_Iterable[_Union[GroupMask, _Mapping]]] = ..., instruction: _Optional[str] = ..., status: _Optional[_Union[FrameStatus, str]] = ..., index: _Optional[int] = ..., recipe_name: _Optional[str] = ...) -> None: ...

class GroupMask(_message.Message):
    __slots__ = ("index", "mask", "probability", "width", "height")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    index: int
    mask: Mask
    probability: ProbabilityMap
    width: int
    height: int
    def __init__(self, index: _Optional[int] = ..., mask: _Optional[_Union[Mask, _Mapping]] = ..., probability: _Optional[_Union[ProbabilityMap, _Mapping]] = ..., width: _Optional[int] = ..., height: _Optional[int] = ...) -> None: ...

class ExplainEvent(_message.Message):
    __slots__ = ("text", "group", "result")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    text: str
    group: GroupMask
    result: SegmentResponse
    def __init__(self, text: _Optional[str] = ..., group: _Optional[_Union[GroupMask, _Mapping]] = ..., result: _Optional[_Union[SegmentResponse, _Mapping]] = ...) -> None: ...

class Scores(_message.Message):
    __slots__ = ("p_answer", "p_reject", "p_other", "anomaly", "min_margin", "normality")
    P_ANSWER_FIELD_NUMBER: _ClassVar[int]
    P_REJECT_FIELD_NUMBER: _ClassVar[int]
    P_OTHER_FIELD_NUMBER: _ClassVar[int]
    ANOMALY_FIELD_NUMBER: _ClassVar[int]
    MIN_MARGIN_FIELD_NUMBER: _ClassVar[int]
    NORMALITY_FIELD_NUMBER: _ClassVar[int]
    p_answer: float
    p_reject: float
    p_other: float
    anomaly: float
    min_margin: float
    normality: float
    def __init__(self, p_answer: _Optional[float] = ..., p_reject: _Optional[float] = ..., p_other: _Optional[float] = ..., anomaly: _Optional[float] = ..., min_margin: _Optional[float] = ..., normality: _Optional[float] = ...) -> None: ...

class Region(_message.Message):
    __slots__ = ("area_px", "box", "centroid_x", "centroid_y", "mean_score", "max_score")
    AREA_PX_FIELD_NUMBER: _ClassVar[int]
    BOX_FIELD_NUMBER: _ClassVar[int]
    CENTROID_X_FIELD_NUMBER: _ClassVar[int]
    CENTROID_Y_FIELD_NUMBER: _ClassVar[int]
    MEAN_SCORE_FIELD_NUMBER: _ClassVar[int]
    MAX_SCORE_FIELD_NUMBER: _ClassVar[int]
    area_px: int
    box: Box
    centroid_x: float
    centroid_y: float
    mean_score: float
    max_score: float
    def __init__(self, area_px: _Optional[int] = ..., box: _Optional[_Union[Box, _Mapping]] = ..., centroid_x: _Optional[float] = ..., centroid_y: _Optional[float] = ..., mean_score: _Optional[float] = ..., max_score: _Optional[float] = ...) -> None: ...

class Box(_message.Message):
    __slots__ = ("x0", "y0", "x1", "y1")
    X0_FIELD_NUMBER: _ClassVar[int]
    Y0_FIELD_NUMBER: _ClassVar[int]
    X1_FIELD_NUMBER: _ClassVar[int]
    Y1_FIELD_NUMBER: _ClassVar[int]
    x0: int
    y0: int
    x1: int
    y1: int
    def __init__(self, x0: _Optional[int] = ..., y0: _Optional[int] = ..., x1: _Optional[int] = ..., y1: _Optional[int] = ...) -> None: ...

class Mask(_message.Message):
    __slots__ = ("format", "data", "polygons")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    POLYGONS_FIELD_NUMBER: _ClassVar[int]
    format: MaskFormat
    data: bytes
    polygons: _containers.RepeatedCompositeFieldContainer[Polygon]
    def __init__(self, format: _Optional[_Union[MaskFormat, str]] = ..., data: _Optional[bytes] = ..., polygons: _Optional[_Iterable[_Union[Polygon, _Mapping]]] = ...) -> None: ...

class Polygon(_message.Message):
    __slots__ = ("points",)
    POINTS_FIELD_NUMBER: _ClassVar[int]
    points: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, points: _Optional[_Iterable[int]] = ...) -> None: ...

class ProbabilityMap(_message.Message):
    __slots__ = ("format", "data")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    format: ProbabilityFormat
    data: bytes
    def __init__(self, format: _Optional[_Union[ProbabilityFormat, str]] = ..., data: _Optional[bytes] = ...) -> None: ...

class StageTiming(_message.Message):
    __slots__ = ("stage", "ms")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    MS_FIELD_NUMBER: _ClassVar[int]
    stage: str
    ms: float
    def __init__(self, stage: _Optional[str] = ..., ms: _Optional[float] = ...) -> None: ...

class ModelIdentity(_message.Message):
    __slots__ = ("name", "bundle_sha256")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_SHA256_FIELD_NUMBER: _ClassVar[int]
    name: str
    bundle_sha256: str
    def __init__(self, name: _Optional[str] = ..., bundle_sha256: _Optional[str] = ...) -> None: ...

class ScanStream(_message.Message):
    __slots__ = ("camera_id", "pixel_format", "width", "tile_width", "tile_height", "overlap", "mm_per_pixel", "mm_per_row", "defaults", "policy", "queue_rows", "longest_defect_rows", "heartbeat_ms")
    CAMERA_ID_FIELD_NUMBER: _ClassVar[int]
    PIXEL_FORMAT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    TILE_WIDTH_FIELD_NUMBER: _ClassVar[int]
    TILE_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    OVERLAP_FIELD_NUMBER: _ClassVar[int]
    MM_PER_PIXEL_FIELD_NUMBER: _ClassVar[int]
    MM_PER_ROW_FIELD_NUMBER: _ClassVar[int]
    DEFAULTS_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    QUEUE_ROWS_FIELD_NUMBER: _ClassVar[int]
    LONGEST_DEFECT_ROWS_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_MS_FIELD_NUMBER: _ClassVar[int]
    camera_id: str
    pixel_format: PixelFormat
    width: int
    tile_width: int
    tile_height: int
    overlap: int
    mm_per_pixel: float
    mm_per_row: float
    defaults: SegmentRequest
    policy: QueuePolicy
    queue_rows: int
    longest_defect_rows: int
    heartbeat_ms: int
    def __init__(self, camera_id: _Optional[str] = ..., pixel_format: _Optional[_Union[PixelFormat, str]] = ..., width: _Optional[int] = ..., tile_width: _Optional[int] = ..., tile_height: _Optional[int] = ..., overlap: _Optional[int] = ..., mm_per_pixel: _Optional[float] = ..., mm_per_row: _Optional[float] = ..., defaults: _Optional[_Union[SegmentRequest, _Mapping]] = ..., policy: _Optional[_Union[QueuePolicy, str]] = ..., queue_rows: _Optional[int] = ..., longest_defect_rows: _Optional[int] = ..., heartbeat_ms: _Optional[int] = ...) -> None: ...

class RowBlock(_message.Message):
    __slots__ = ("height", "stride", "data", "encoder_count")
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    STRIDE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    ENCODER_COUNT_FIELD_NUMBER: _ClassVar[int]
    height: int
    stride: int
    data: bytes
    encoder_count: int
    def __init__(self, height: _Optional[int] = ..., stride: _Optional[int] = ..., data: _Optional[bytes] = ..., encoder_count: _Optional[int] = ...) -> None: ...

class ScanRequest(_message.Message):
    __slots__ = ("open", "rows")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    open: ScanStream
    rows: RowBlock
    def __init__(self, open: _Optional[_Union[ScanStream, _Mapping]] = ..., rows: _Optional[_Union[RowBlock, _Mapping]] = ...) -> None: ...

class ScanDefect(_message.Message):
    __slots__ = ("index", "first_row", "last_row", "x0", "x1", "centroid_x", "centroid_row", "area_px", "mean_score", "max_score", "begins_cut", "ends_cut", "encoder_count", "mm")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    FIRST_ROW_FIELD_NUMBER: _ClassVar[int]
    LAST_ROW_FIELD_NUMBER: _ClassVar[int]
    X0_FIELD_NUMBER: _ClassVar[int]
    X1_FIELD_NUMBER: _ClassVar[int]
    CENTROID_X_FIELD_NUMBER: _ClassVar[int]
    CENTROID_ROW_FIELD_NUMBER: _ClassVar[int]
    AREA_PX_FIELD_NUMBER: _ClassVar[int]
    MEAN_SCORE_FIELD_NUMBER: _ClassVar[int]
    MAX_SCORE_FIELD_NUMBER: _ClassVar[int]
    BEGINS_CUT_FIELD_NUMBER: _ClassVar[int]
    ENDS_CUT_FIELD_NUMBER: _ClassVar[int]
    ENCODER_COUNT_FIELD_NUMBER: _ClassVar[int]
    MM_FIELD_NUMBER: _ClassVar[int]
    index: int
    first_row: int
    last_row: int
    x0: int
    x1: int
    centroid_x: float
    centroid_row: float
    area_px: int
    mean_score: float
    max_score: float
    begins_cut: bool
    ends_cut: bool
    encoder_count: int
    mm: ScanDefectMm
    def __init__(self, index: _Optional[int] = ..., first_row: _Optional[int] = ..., last_row: _Optional[int] = ..., x0: _Optional[int] = ..., x1: _Optional[int] = ..., centroid_x: _Optional[float] = ..., centroid_row: _Optional[float] = ..., area_px: _Optional[int] = ..., mean_score: _Optional[float] = ..., max_score: _Optional[float] = ..., begins_cut: bool = ..., ends_cut: bool = ..., encoder_count: _Optional[int] = ..., mm: _Optional[_Union[ScanDefectMm, _Mapping]] = ...) -> None: ...

class ScanDefectMm(_message.Message):
    __slots__ = ("x0", "x1", "centroid_x", "y0", "y1", "centroid_y", "area")
    X0_FIELD_NUMBER: _ClassVar[int]
    X1_FIELD_NUMBER: _ClassVar[int]
    CENTROID_X_FIELD_NUMBER: _ClassVar[int]
    Y0_FIELD_NUMBER: _ClassVar[int]
    Y1_FIELD_NUMBER: _ClassVar[int]
    CENTROID_Y_FIELD_NUMBER: _ClassVar[int]
    AREA_FIELD_NUMBER: _ClassVar[int]
    x0: float
    x1: float
    centroid_x: float
    y0: float
    y1: float
    centroid_y: float
    area: float
    def __init__(self, x0: _Optional[float] = ..., x1: _Optional[float] = ..., centroid_x: _Optional[float] = ..., y0: _Optional[float] = ..., y1: _Optional[float] = ..., centroid_y: _Optional[float] = ..., area: _Optional[float] = ...) -> None: ...

class ScanProgress(_message.Message):
    __slots__ = ("rows_received", "rows_settled", "rows_skipped", "rows_per_s", "rows_waiting")
    ROWS_RECEIVED_FIELD_NUMBER: _ClassVar[int]
    ROWS_SETTLED_FIELD_NUMBER: _ClassVar[int]
    ROWS_SKIPPED_FIELD_NUMBER: _ClassVar[int]
    ROWS_PER_S_FIELD_NUMBER: _ClassVar[int]
    ROWS_WAITING_FIELD_NUMBER: _ClassVar[int]
    rows_received: int
    rows_settled: int
    rows_skipped: int
    rows_per_s: float
    rows_waiting: int
    def __init__(self, rows_received: _Optional[int] = ..., rows_settled: _Optional[int] = ..., rows_skipped: _Optional[int] = ..., rows_per_s: _Optional[float] = ..., rows_waiting: _Optional[int] = ...) -> None: ...

class ScanSkipped(_message.Message):
    __slots__ = ("first_row", "rows", "x0", "x1", "status", "reason", "gate")
    FIRST_ROW_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    X0_FIELD_NUMBER: _ClassVar[int]
    X1_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    GATE_FIELD_NUMBER: _ClassVar[int]
    first_row: int
    rows: int
    x0: int
    x1: int
    status: FrameStatus
    reason: str
    gate: Gate
    def __init__(self, first_row: _Optional[int] = ..., rows: _Optional[int] = ..., x0: _Optional[int] = ..., x1: _Optional[int] = ..., status: _Optional[_Union[FrameStatus, str]] = ..., reason: _Optional[str] = ..., gate: _Optional[_Union[Gate, str]] = ...) -> None: ...

class ScanSummary(_message.Message):
    __slots__ = ("rows", "rows_skipped", "defects", "ignored", "tiles", "rows_per_s", "model", "recipe_name")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    ROWS_SKIPPED_FIELD_NUMBER: _ClassVar[int]
    DEFECTS_FIELD_NUMBER: _ClassVar[int]
    IGNORED_FIELD_NUMBER: _ClassVar[int]
    TILES_FIELD_NUMBER: _ClassVar[int]
    ROWS_PER_S_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    RECIPE_NAME_FIELD_NUMBER: _ClassVar[int]
    rows: int
    rows_skipped: int
    defects: int
    ignored: int
    tiles: int
    rows_per_s: float
    model: ModelIdentity
    recipe_name: str
    def __init__(self, rows: _Optional[int] = ..., rows_skipped: _Optional[int] = ..., defects: _Optional[int] = ..., ignored: _Optional[int] = ..., tiles: _Optional[int] = ..., rows_per_s: _Optional[float] = ..., model: _Optional[_Union[ModelIdentity, _Mapping]] = ..., recipe_name: _Optional[str] = ...) -> None: ...

class ScanResponse(_message.Message):
    __slots__ = ("heartbeat", "defect", "progress", "skipped", "summary")
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    DEFECT_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    heartbeat: Heartbeat
    defect: ScanDefect
    progress: ScanProgress
    skipped: ScanSkipped
    summary: ScanSummary
    def __init__(self, heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., defect: _Optional[_Union[ScanDefect, _Mapping]] = ..., progress: _Optional[_Union[ScanProgress, _Mapping]] = ..., skipped: _Optional[_Union[ScanSkipped, _Mapping]] = ..., summary: _Optional[_Union[ScanSummary, _Mapping]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model", "licence", "checkpoint_sha256", "preset", "random_weights", "graphs", "parity", "default_instruction", "threshold", "alpha", "templates", "agvas_version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    LICENCE_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_SHA256_FIELD_NUMBER: _ClassVar[int]
    PRESET_FIELD_NUMBER: _ClassVar[int]
    RANDOM_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    GRAPHS_FIELD_NUMBER: _ClassVar[int]
    PARITY_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_INSTRUCTION_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    TEMPLATES_FIELD_NUMBER: _ClassVar[int]
    AGVAS_VERSION_FIELD_NUMBER: _ClassVar[int]
    model: ModelIdentity
    licence: str
    checkpoint_sha256: str
    preset: str
    random_weights: bool
    graphs: _containers.RepeatedCompositeFieldContainer[Graph]
    parity: _struct_pb2.Struct
    default_instruction: str
    threshold: float
    alpha: float
    templates: TemplateSummary
    agvas_version: str
    def __init__(self, model: _Optional[_Union[ModelIdentity, _Mapping]] = ..., licence: _Optional[str] = ..., checkpoint_sha256: _Optional[str] = ..., preset: _Optional[str] = ..., random_weights: bool = ..., graphs: _Optional[_Iterable[_Union[Graph, _Mapping]]] = ..., parity: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., default_instruction: _Optional[str] = ..., threshold: _Optional[float] = ..., alpha: _Optional[float] = ..., templates: _Optional[_Union[TemplateSummary, _Mapping]] = ..., agvas_version: _Optional[str] = ...) -> None: ...

class Graph(_message.Message):
    __slots__ = ("name", "file", "precision", "opset", "size_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    OPSET_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    file: str
    precision: str
    opset: int
    size_bytes: int
    def __init__(self, name: _Optional[str] = ..., file: _Optional[str] = ..., precision: _Optional[str] = ..., opset: _Optional[int] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class TemplateSummary(_message.Message):
    __slots__ = ("direct_instructions", "direct_answers", "rejections", "class_names")
    DIRECT_INSTRUCTIONS_FIELD_NUMBER: _ClassVar[int]
    DIRECT_ANSWERS_FIELD_NUMBER: _ClassVar[int]
    REJECTIONS_FIELD_NUMBER: _ClassVar[int]
    CLASS_NAMES_FIELD_NUMBER: _ClassVar[int]
    direct_instructions: int
    direct_answers: int
    rejections: int
    class_names: int
    def __init__(self, direct_instructions: _Optional[int] = ..., direct_answers: _Optional[int] = ..., rejections: _Optional[int] = ..., class_names: _Optional[int] = ...) -> None: ...
