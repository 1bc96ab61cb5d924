"""Everything that the operator of a server chooses, with its ranges. `config_sources.py` knows where values come from.

The docstrings of the fields are the help of `agvas-runtime serve`; a test compares docs/operation.md with the fields.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from agvas_runtime.engines.registry import OF_BUNDLES
from agvas_runtime.errors import InputError
from agvas_runtime.modes import Request
from agvas_runtime.server.engine.task import EngineSpec

BYTES_A_PIXEL = 8
"""Of a frame in shared memory: three of the image, one of its mask, four of its map."""


class ServerConfig(BaseModel):
    """One server. What contradicts itself, or would be open to a network by accident, is refused when it is made."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, coerce_numbers_to_str=True)

    bundle: Path | None = None
    """Bundle folder; the embedded tiny bundle by default."""
    engine: str = "auto"
    """ort, ort-cuda, tensorrt; auto (default): TensorRT where the bundle was made for it and it can be had, or ort."""
    threads: int | None = Field(None, ge=1, le=256)
    """Threads of an engine on the CPU; all cores by default."""
    devices: tuple[str, ...] = ()
    """Device of an engine process, as in CUDA_VISIBLE_DEVICES; may repeat, an engine each. By default one."""
    max_batch: int = Field(4, ge=1, le=64)
    """Most waiting frames of one instruction that are segmented together, where that pays; 4 by default."""
    warm: tuple[str, ...] = ()
    """Instruction whose first frame is to be fast as well; may repeat. By default the bundle's and 32 recipes'."""

    host: str = Field("127.0.0.1", min_length=1)
    """Address to listen on; 127.0.0.1 by default. Beyond loopback it takes TLS and credentials, or --insecure.
    0.0.0.0 is every address of this machine, those of IPv6 too."""
    port: int = Field(50051, ge=0, le=65535)
    """TCP port of gRPC; 50051 by default, 0 takes any free one."""
    local: Path | None = None
    """Unix socket for cameras on this machine, whose frames stay in shared memory: docs/local.md; none by default."""
    tls_cert: Path | None = None
    """Certificate chain of the server, PEM; with --tls-key. It is read again when it changes. No TLS by default."""
    tls_key: Path | None = None
    """Private key of the certificate, PEM, without a password."""
    client_ca: Path | None = None
    """Certificates, PEM, that a client's certificate must lead to; clients need none by default."""
    access: Path | None = None
    """File of who may do what, see docs/security.md; without one this machine may do everything, others inspect."""
    insecure: bool = False
    """Listen beyond loopback without TLS or without credentials. Off by default."""

    recipes: Path | None = None
    """Folder of recipes, NAME.yaml, see docs/recipes.md; none by default."""
    bundle_root: Path | None = None
    """Folder below which `agvas-runtime swap` may choose a bundle; by default there is no swapping."""

    max_message_mb: int = Field(64, ge=1, le=2047)
    """Largest request, in MiB; 64 by default."""
    max_megapixels: float = Field(50, gt=0, le=2000, allow_inf_nan=False)
    """Largest image, in million pixels, as its header says; 50 by default."""
    max_memory_mb: int = Field(2048, ge=1, le=1 << 20)
    """Shared memory for the frames that wait or are computed, in MiB; 2048 by default. Only what is used is taken."""
    max_streams: int = Field(32, ge=1, le=1000)
    """Streams of Inspect and Scan that may be open at a time; 32 by default."""
    max_waiting: int = Field(16, ge=1, le=1000)
    """Calls of Segment and Explain that may be served at a time; 16 by default."""
    rate_per_s: float | None = Field(None, gt=0, le=1e6, allow_inf_nan=False)
    """Frames a second of a stream, and calls a second of a caller; any number by default."""
    hang_s: float = Field(120, ge=1, le=86400, allow_inf_nan=False)
    """Seconds without an answer after which an engine process is taken for dead; 120 by default."""
    drain_s: float = Field(10, ge=0, le=3600, allow_inf_nan=False)
    """Seconds that a stopping server has to answer what it accepted; 10 by default."""

    metrics_host: str = Field("127.0.0.1", min_length=1)
    """Address of /metrics, /healthz and /readyz; 127.0.0.1 by default."""
    metrics_port: int | None = Field(None, ge=0, le=65535)
    """TCP port of /metrics, /healthz and /readyz, 0 takes any free one; there is none by default."""
    metrics_insecure: bool = False
    """Let metrics listen beyond loopback: they have no TLS and no login. For a pod network. Off by default."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """debug, info (default), warning or error."""
    log_format: Literal["text", "json"] = "text"
    """Lines on stderr as text (default) or as one JSON object each."""
    tracing: bool = False
    """Send an OpenTelemetry span of every frame; needs agvas[tracing], configured by OTEL_*. Off by default."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_number_from_a_bool(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML's `true` is no port and no path."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise PydanticCustomError("no_bool", "found {found}, expected another value", {"found": str(value).lower()})
        return value

    @field_validator("engine")
    @classmethod
    def _is_an_engine(cls, engine: str) -> str:
        known = ("auto", *OF_BUNDLES)
        if engine not in known:
            raise PydanticCustomError(
                "engine", "found {found}, expected {known}", {"found": repr(engine), "known": ", ".join(known)}
            )
        return engine

    @field_validator("warm")
    @classmethod
    def _can_be_asked(cls, warm: tuple[str, ...]) -> tuple[str, ...]:
        for text in warm:
            try:
                Request(instruction=text).check()
            except InputError as error:
                raise PydanticCustomError("warm", "{reason}", {"reason": str(error)}) from None
        return warm

    @model_validator(mode="after")
    def _goes_together(self) -> ServerConfig:
        from agvas_runtime.server.tls import (
            check_exposure,
            is_loopback,
        )  # brings gRPC, which the command's help can spare

        try:
            check_exposure(
                self.host,
                cert=self.tls_cert,
                key=self.tls_key,
                client_ca=self.client_ca,
                access=self.access,
                insecure=self.insecure,
            )
        except InputError as error:
            field, _, message = str(error).partition(": ")
            raise _refused(field, message) from None
        if self.metrics_port is not None and not is_loopback(self.metrics_host) and not self.metrics_insecure:
            expected = "a loopback address, or metrics_insecure: metrics have no TLS and no login"
            raise _refused(
                "metrics_host", f"found {self.metrics_host}, which other machines reach, expected {expected}"
            )
        if self.metrics_port and (self.metrics_host, self.metrics_port) == (self.host, self.port):
            raise _refused("metrics_port", f"found {self.metrics_port}, expected another one than port")
        frame_mb = BYTES_A_PIXEL * self.max_megapixels * 1e6 / 2**20
        if self.max_memory_mb < frame_mb:
            least = f"at least {int(frame_mb) + 1}, a frame of max_megapixels {self.max_megapixels:g}"
            raise _refused("max_memory_mb", f"found {self.max_memory_mb}, expected {least}")
        return self

    def engine_spec(self) -> EngineSpec:
        """What an engine process loads; whoever starts it says on which device."""
        warm = tuple(Request(instruction=text) for text in self.warm)
        return EngineSpec(self.bundle, self.engine, self.threads, warm, self.max_batch)


def _refused(field: str, message: str) -> PydanticCustomError:
    """What is wrong with a field beside others; `config_sources` puts the field's source in front."""
    return PydanticCustomError("together", "{message}", {"message": message, "field": field})
