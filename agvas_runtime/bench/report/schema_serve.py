"""What a report of `agvas-bench serve` must hold to be shown."""

from typing import Annotated

from pydantic import BaseModel, Field, model_validator

from agvas_runtime.bench.report.schema_values import (
    Difference,
    Differences,
    Figures,
    Found,
    Head,
    Number,
    Time,
    check_lengths,
)


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

    camera: list[Annotated[int, Field(ge=0)]]
    due_s: list[Time]
    latency_ms: list[Time | None]
    overhead_ms: list[Difference | None]
    engine_ms: list[Time | None]
    status: list[str] | None = None

    @model_validator(mode="after")
    def _same_frames(self) -> "ServeSamples":
        check_lengths(self.__dict__, len(self.due_s), "as due_s has")
        return self


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
    sent_late_ms: Differences | None
    engine_ms: Figures | None
    overhead_ms: Differences | None
    misses: int
    miss_share: Found
    fairness: Fairness
    per_camera: list[Camera]
    samples: ServeSamples

    @model_validator(mode="after")
    def _known_cameras(self) -> "Step":
        if (last := max(self.samples.camera, default=0)) >= len(self.per_camera):
            raise ValueError(
                f"samples.camera: found {last}, expected places in per_camera, which has {len(self.per_camera)}"
            )
        return self


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
