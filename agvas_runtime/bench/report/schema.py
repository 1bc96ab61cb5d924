"""What a report of agvas-bench must hold to be shown, and reading one. More than is named here may stand in it."""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from agvas_runtime.bench.figures import PERCENTILES
from agvas_runtime.console import one_line
from agvas_runtime.errors import InputError

SCHEMA = 3

Number = Annotated[float, Field(allow_inf_nan=False)]
Found = Number | None
"""A number, or null where it is not known."""


def _whole(figures: dict[str, float]) -> dict[str, float]:
    if missing := [name for name in (*PERCENTILES, "mean") if name not in figures]:
        raise ValueError(f"has no {missing[0]}")
    return figures


def _with_call(stages: dict[str, Any]) -> dict[str, Any]:
    if "call" not in stages:
        raise ValueError("has no stage 'call'")
    return stages


Figures = Annotated[dict[str, Number], AfterValidator(_whole)]
Stages = Annotated[dict[str, Figures], AfterValidator(_with_call)]


class Ratio(BaseModel):
    """How many times as long as the base, per turn: the median and its 95 % interval."""

    median: Found
    low: Found
    high: Found


class Group(BaseModel):
    """Turns of one kind."""

    frames: int
    stages_ms: Stages
    times_of_base: dict[str, Ratio]


class Device(BaseModel):
    """The process's memory on a device, as the driver sees it."""

    name: str
    before_bytes: Found
    loaded_bytes: Found
    peak_bytes: Found


class Energy(BaseModel):
    """What a frame takes."""

    source: str
    joules_per_frame: Found
    watts_mean: Found


class Alone(BaseModel):
    """Measured in a process of its own."""

    load_ms: Found
    first_call_ms: Found
    build_ms: Found
    rss_before_bytes: Found
    rss_loaded_bytes: Found
    rss_peak_bytes: Found
    device: Device | None
    energy: Energy | None


class Batch(BaseModel):
    """Throughput at one batch size."""

    batch: int
    frames_per_s: Found
    ms_per_frame: Found


class Quality(BaseModel):
    """Agreement with another contender's masks: IoU in [0, 1]."""

    against: str
    frames: int
    iou_mean: Found
    iou_min: Found
    same_verdicts: int


class Data(BaseModel):
    """Figures on a data set in percent."""

    dataset: str
    images: int
    ap: Found
    f1_max: Found
    iou_ano: Found
    iou_nor: Found


class EngineSamples(BaseModel):
    """Every turn's times."""

    times_ms: Annotated[dict[str, list[Found]], AfterValidator(_with_call)]


class Contender(BaseModel):
    """One contender of `agvas-bench engine`."""

    name: str
    engine: str
    model: str
    model_sha256: str | None
    weights: str
    mode: str
    instruction: str
    frames: int
    frames_per_s: Found
    outcomes: dict[str, int]
    stages_ms: Stages
    groups: dict[str, Group]
    throughput: list[Batch]
    alone: Alone | None
    quality: Quality | None
    data: Data | None
    samples: EngineSamples


class Over(BaseModel):
    """What the base's work on an answer takes longer than another contender's."""

    extra_ms: Found
    within_share: bool


class TrieGroup(BaseModel):
    """What the trie's rows cost over frames of one kind."""

    frames: int
    share_ms: Found
    over: dict[str, Over]


class Trie(BaseModel):
    """What the trie's rows cost."""

    base: str
    plain: str
    groups: dict[str, TrieGroup]


class Head(BaseModel):
    """What every report begins with."""

    began: str
    machine: dict[str, Any]


class EngineReport(Head):
    """A report of `agvas-bench engine`."""

    frames: int
    warmup: int
    threads: int | None
    images: list[str] | str
    frame_bytes_mean: Found
    base: str
    trie: Trie | None
    yardstick_ms: list[Found]
    elsewhere_ms: list[Found] | None = None
    contenders: Annotated[list[Contender], Field(min_length=1)]


class Target(BaseModel):
    """What the load was put on."""

    address: str
    protocol: str
    model: str
    model_sha256: str | None


class Frame(BaseModel):
    """What was sent."""

    format: str
    bytes_mean: Found
    height: int
    width: int


class Load(BaseModel):
    """How it was sent."""

    arrivals: str
    seed: int | None
    seconds: Number
    warmup_s: Found
    frame: Frame
    target_p99_ms: Found
    max_miss_share: Found = None


class Fairness(BaseModel):
    """Cameras beside each other."""

    jain: Found
    worst_p99_ms: Found
    best_p99_ms: Found


class Camera(BaseModel):
    """One camera of a step."""

    name: str
    rate_hz: Number
    deadline_ms: Found
    sent: int
    statuses: dict[str, int]
    latency_ms: Figures | None
    misses: int


class ServeSamples(BaseModel):
    """Every frame's times."""

    due_s: list[Found]
    latency_ms: list[Found]


class Step(BaseModel):
    """One load."""

    cameras: int
    offered_hz: Number
    answered_hz: Number
    seconds: Number
    sent: int
    statuses: dict[str, int]
    held: bool | None
    latency_ms: Figures | None
    sent_late_ms: Figures | None
    engine_ms: Figures | None
    overhead_ms: Figures | None
    misses: int
    miss_share: Found
    fairness: Fairness
    per_camera: list[Camera]
    samples: ServeSamples


class Carried(BaseModel):
    """How many cameras kept the target."""

    cameras: int
    first_broken: int | None


class ServeReport(Head):
    """A report of `agvas-bench serve`."""

    target: Target
    load: Load
    steps: Annotated[list[Step], Field(min_length=1)]
    carried: Carried | None


KINDS: dict[str, type[Head]] = {"engine": EngineReport, "serve": ServeReport}


def read_report(path: Path) -> dict[str, Any]:
    """A report of `agvas-bench engine` or `serve`, as it stands in the file. Raises InputError naming what is wrong."""
    try:
        report = json.loads(path.read_text("utf-8"), parse_constant=_no_number)
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: no JSON: {one_line(str(error))}") from None
    if not isinstance(report, dict) or "schema" not in report:
        raise InputError(f"{path}: no report: found no 'schema', expected {SCHEMA}")
    if report["schema"] != SCHEMA:
        raise InputError(f"{path}: schema {report['schema']!r}, expected {SCHEMA}")
    kind = report.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise InputError(f"{path}: kind {kind!r}, expected {' or '.join(map(repr, KINDS))}")
    try:
        KINDS[kind].model_validate(report)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{path}: {where}: {one_line(first['msg'])}") from None
    return report


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")
