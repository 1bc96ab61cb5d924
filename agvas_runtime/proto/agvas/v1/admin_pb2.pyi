from agvas_runtime.proto.agvas.v1 import inspection_pb2 as _inspection_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SwapRequest(_message.Message):
    __slots__ = ("bundle", "shadow_frames", "shadow_timeout_s", "max_disagreement", "min_iou", "max_slowdown", "dry_run")
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FRAMES_FIELD_NUMBER: _ClassVar[int]
    SHADOW_TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    MAX_DISAGREEMENT_FIELD_NUMBER: _ClassVar[int]
    MIN_IOU_FIELD_NUMBER: _ClassVar[int]
    MAX_SLOWDOWN_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    bundle: str
    shadow_frames: int
    shadow_timeout_s: float
    max_disagreement: float
    min_iou: float
    max_slowdown: float
    dry_run: bool
    def __init__(self, bundle: _Optional[str] = ..., shadow_frames: _Optional[int] = ..., shadow_timeout_s: _Optional[float] = ..., max_disagreement: _Optional[float] = ..., min_iou: _Optional[float] = ..., max_slowdown: _Optional[float] = ..., dry_run: bool = ...) -> None: ...

class SwapEvent(_message.Message):
    __slots__ = ("phase", "reason", "comparison", "to")
    class Phase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        PHASE_UNSPECIFIED: _ClassVar[SwapEvent.Phase]
        PHASE_LOADING: _ClassVar[SwapEvent.Phase]
        PHASE_SHADOW: _ClassVar[SwapEvent.Phase]
        PHASE_SWITCHED: _ClassVar[SwapEvent.Phase]
        PHASE_REFUSED: _ClassVar[SwapEvent.Phase]
        PHASE_COMPARED: _ClassVar[SwapEvent.Phase]
    PHASE_UNSPECIFIED: SwapEvent.Phase
    PHASE_LOADING: SwapEvent.Phase
    PHASE_SHADOW: SwapEvent.Phase
    PHASE_SWITCHED: SwapEvent.Phase
    PHASE_REFUSED: SwapEvent.Phase
    PHASE_COMPARED: SwapEvent.Phase
    PHASE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    COMPARISON_FIELD_NUMBER: _ClassVar[int]
    FROM_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    phase: SwapEvent.Phase
    reason: str
    comparison: Comparison
    to: _inspection_pb2.ModelIdentity
    def __init__(self, phase: _Optional[_Union[SwapEvent.Phase, str]] = ..., reason: _Optional[str] = ..., comparison: _Optional[_Union[Comparison, _Mapping]] = ..., to: _Optional[_Union[_inspection_pb2.ModelIdentity, _Mapping]] = ..., **kwargs) -> None: ...

class Comparison(_message.Message):
    __slots__ = ("frames", "same_verdict", "mean_iou", "min_iou", "old_p50_ms", "new_p50_ms", "errors", "first_error")
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    SAME_VERDICT_FIELD_NUMBER: _ClassVar[int]
    MEAN_IOU_FIELD_NUMBER: _ClassVar[int]
    MIN_IOU_FIELD_NUMBER: _ClassVar[int]
    OLD_P50_MS_FIELD_NUMBER: _ClassVar[int]
    NEW_P50_MS_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    FIRST_ERROR_FIELD_NUMBER: _ClassVar[int]
    frames: int
    same_verdict: int
    mean_iou: float
    min_iou: float
    old_p50_ms: float
    new_p50_ms: float
    errors: int
    first_error: str
    def __init__(self, frames: _Optional[int] = ..., same_verdict: _Optional[int] = ..., mean_iou: _Optional[float] = ..., min_iou: _Optional[float] = ..., old_p50_ms: _Optional[float] = ..., new_p50_ms: _Optional[float] = ..., errors: _Optional[int] = ..., first_error: _Optional[str] = ...) -> None: ...

class ReloadRecipesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RecipesResponse(_message.Message):
    __slots__ = ("recipes",)
    RECIPES_FIELD_NUMBER: _ClassVar[int]
    recipes: _containers.RepeatedCompositeFieldContainer[RecipeState]
    def __init__(self, recipes: _Optional[_Iterable[_Union[RecipeState, _Mapping]]] = ...) -> None: ...

class RecipeState(_message.Message):
    __slots__ = ("name", "sha256", "error")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    name: str
    sha256: str
    error: str
    def __init__(self, name: _Optional[str] = ..., sha256: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DrainResponse(_message.Message):
    __slots__ = ("answered",)
    ANSWERED_FIELD_NUMBER: _ClassVar[int]
    answered: int
    def __init__(self, answered: _Optional[int] = ...) -> None: ...

class GetStatisticsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Statistics(_message.Message):
    __slots__ = ("uptime_s", "serving", "reason", "draining", "model", "engines", "cameras", "recipes", "waiting")
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    SERVING_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ENGINES_FIELD_NUMBER: _ClassVar[int]
    CAMERAS_FIELD_NUMBER: _ClassVar[int]
    RECIPES_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    uptime_s: float
    serving: bool
    reason: str
    draining: bool
    model: _inspection_pb2.ModelIdentity
    engines: _containers.RepeatedCompositeFieldContainer[EngineState]
    cameras: _containers.RepeatedCompositeFieldContainer[CameraState]
    recipes: _containers.RepeatedCompositeFieldContainer[RecipeState]
    waiting: int
    def __init__(self, uptime_s: _Optional[float] = ..., serving: bool = ..., reason: _Optional[str] = ..., draining: bool = ..., model: _Optional[_Union[_inspection_pb2.ModelIdentity, _Mapping]] = ..., engines: _Optional[_Iterable[_Union[EngineState, _Mapping]]] = ..., cameras: _Optional[_Iterable[_Union[CameraState, _Mapping]]] = ..., recipes: _Optional[_Iterable[_Union[RecipeState, _Mapping]]] = ..., waiting: _Optional[int] = ...) -> None: ...

class EngineState(_message.Message):
    __slots__ = ("device", "pid", "ready", "restarts", "last_death", "memory_bytes", "ms_per_frame")
    class MsPerFrameEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: float
        def __init__(self, key: _Optional[int] = ..., value: _Optional[float] = ...) -> None: ...
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    LAST_DEATH_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MS_PER_FRAME_FIELD_NUMBER: _ClassVar[int]
    device: str
    pid: int
    ready: bool
    restarts: int
    last_death: str
    memory_bytes: int
    ms_per_frame: _containers.ScalarMap[int, float]
    def __init__(self, device: _Optional[str] = ..., pid: _Optional[int] = ..., ready: bool = ..., restarts: _Optional[int] = ..., last_death: _Optional[str] = ..., memory_bytes: _Optional[int] = ..., ms_per_frame: _Optional[_Mapping[int, float]] = ...) -> None: ...

class CameraState(_message.Message):
    __slots__ = ("camera_id", "frames", "verdicts", "connected")
    class FramesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class VerdictsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    CAMERA_ID_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    camera_id: str
    frames: _containers.ScalarMap[str, int]
    verdicts: _containers.ScalarMap[str, int]
    connected: bool
    def __init__(self, camera_id: _Optional[str] = ..., frames: _Optional[_Mapping[str, int]] = ..., verdicts: _Optional[_Mapping[str, int]] = ..., connected: bool = ...) -> None: ...
