"""What engines.json says: for which device plans are good, of what each was made, and what making it took."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from agvas_runtime.engines.device import Device
from agvas_runtime.manifest import Sha256


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Target(_Part):
    """What a plan is good for, and nothing else."""

    gpu: str
    compute_capability: str
    tensorrt: str
    driver: str

    @classmethod
    def of(cls, device: Device) -> Target:
        """The target that a device is."""
        return cls.model_validate({name: value for name, value in asdict(device).items() if name in cls.model_fields})

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return plain(f"{self.gpu}-{self.tensorrt}")

    def differs(self, other: Target) -> str:
        """The first field in which this, the recorded one, is not the other; empty where they are equal."""
        for name in type(self).model_fields:
            if (mine := getattr(self, name)) != (theirs := getattr(other, name)):
                return f"built for {name.replace('_', ' ')} {mine}, here it is {theirs}"
        return ""


class PlanEntry(_Part):
    """One plan, what it was made of, and what making it took."""

    file: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.plan$")
    sha256: Sha256
    size: int = Field(gt=0)
    """Bytes."""
    sources: dict[str, Sha256]
    """The graph's files in the bundle, weights included."""
    precision: str
    ranges: dict[str, tuple[int, int, int]]
    workspace_bytes: int
    seconds: float
    peak_host_bytes: int
    peak_device_bytes: int | None
    warnings: list[str]


class EngineList(_Part):
    """engines.json."""

    schema_version: Literal[1] = 1
    target: Target
    plans: dict[str, PlanEntry] = Field(default_factory=dict)


def plain(name: str) -> str:
    """The name in lower-case letters, digits, dots and hyphens."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.") or "unnamed"
