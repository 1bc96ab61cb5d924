"""The kinds of numbers and lists that a report of agvas-bench is made of, and the head of all reports."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field

from agvas_runtime.bench.figures import PERCENTILES

MOST = 1e9
"""Times from here on, in milliseconds or seconds, are no measurement."""

Number = Annotated[float, Field(allow_inf_nan=False)]
Found = Number | None
"""A number, or null where it is not known."""
Time = Annotated[float, Field(ge=0, lt=MOST)]
Difference = Annotated[float, Field(gt=-MOST, lt=MOST)]
"""Of two times: clocks that tick coarsely, or in two machines, may put it below 0."""


def _whole(figures: dict[str, float]) -> dict[str, float]:
    if missing := [name for name in (*PERCENTILES, "mean") if name not in figures]:
        raise ValueError(f"has no {missing[0]}")
    return figures


def with_call(stages: dict[str, Any]) -> dict[str, Any]:
    """The stages, if the whole call is among them; raises ValueError."""
    if "call" not in stages:
        raise ValueError("has no stage 'call'")
    return stages


def check_lengths(lists: Mapping[str, Sequence[Any] | None], length: int, expected: str) -> None:
    """Raise ValueError naming the first list of another length; lists that are None are not there."""
    for name, values in lists.items():
        if values is not None and len(values) != length:
            raise ValueError(f"{name}: found {len(values)} values, expected {length}, {expected}")


Figures = Annotated[dict[str, Time], AfterValidator(_whole)]
Differences = Annotated[dict[str, Difference], AfterValidator(_whole)]
Stages = Annotated[dict[str, Figures], AfterValidator(with_call)]


class Machine(BaseModel):
    """What a report was measured on, as far as the page needs it in a certain form."""

    packages: dict[str, str] = {}
    cores_usable: Found = None
    cores_limit: Found = None
    memory_limit_bytes: Found = None
    gpus: list[str] = []
    gpu_driver: str | None = None


class Head(BaseModel):
    """What every report begins with."""

    began: str
    machine: Machine
