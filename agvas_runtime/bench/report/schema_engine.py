"""What a report of `agvas-bench engine` must hold to be shown."""

import math
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field, model_validator

from agvas_runtime.bench.figures import BOUT
from agvas_runtime.bench.report.schema_values import (
    Difference,
    Found,
    Head,
    Stages,
    Time,
    check_lengths,
    with_call,
)


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

    frame_kind: list[str | None] | None = None
    answer_kind: list[str] | None = None
    one_pass: list[bool] | None = None
    times_ms: Annotated[dict[str, list[Time | None]], AfterValidator(with_call)]

    def check_turns(self, turns: int) -> None:
        """Raise ValueError where a list does not have a value for every turn."""
        lists = {"frame_kind": self.frame_kind, "answer_kind": self.answer_kind, "one_pass": self.one_pass}
        times = {f"times_ms.{stage}": values for stage, values in self.times_ms.items()}
        check_lengths({**lists, **times}, turns, "one for every turn")


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


class EngineReport(Head):
    """A report of `agvas-bench engine`."""

    frames: int
    warmup: int
    spread_s: float
    threads: int | None
    images: list[str] | str
    frame_bytes_mean: Found
    base: str
    trie: Trie | None
    bouts_began_s: list[float]
    yardstick_ms: list[Time]
    elsewhere_ms: list[Difference]
    contenders: Annotated[list[Contender], Field(min_length=1)]

    @model_validator(mode="after")
    def _same_turns(self) -> "EngineReport":
        machine = {"yardstick_ms": self.yardstick_ms, "elsewhere_ms": self.elsewhere_ms}
        check_lengths(machine, self.frames, "one for every turn")
        check_lengths(
            {"bouts_began_s": self.bouts_began_s}, math.ceil(self.frames / BOUT), f"one for {BOUT} turns each"
        )
        for place, contender in enumerate(self.contenders):
            try:
                contender.samples.check_turns(self.frames)
            except ValueError as error:
                raise ValueError(f"contenders.{place}.samples.{error}") from None
        return self
