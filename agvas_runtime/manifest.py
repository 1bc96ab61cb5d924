"""The schema of a bundle's manifest.json. Reading, checking and writing bundles is in bundle.py."""

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from agvas_runtime.preprocess import PixelView, SemanticView
from agvas_runtime.prompts import PromptSpec

SCHEMA_VERSION = 1

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def content_digest(content: dict[str, Any]) -> str:
    """SHA-256 of a manifest's fields but `content_sha256`, as JSON with sorted keys and no spaces."""
    fields = {name: value for name, value in content.items() if name != "content_sha256"}
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FileEntry(_Part):
    """What a listed file must be."""

    sha256: Sha256
    size: int = Field(ge=0)
    """Bytes."""


class TensorSpec(_Part):
    """One input or output of a graph; a dimension that varies has a name instead of a number."""

    name: str
    dtype: str
    shape: list[int | str]


class Cost(_Part):
    """The arithmetic of one run of a graph; a multiplication and an addition are two."""

    flops: int = Field(gt=0)
    """All products, convolutions and attention."""
    matrix_flops: int = Field(ge=0)
    """Of them, products with constant matrices: what a graph in int8 or int4 for ONNX Runtime computes in fewer bits.
    One with calibrated scales (int8-static, fp8) has convolutions in 8 bits too, which do not count here."""
    sizes: dict[str, Annotated[int, Field(gt=0)]]
    """Name of a dimension that varies to its size in that run: one frame, the default instruction, one group."""


class GraphSpec(_Part):
    """One ONNX graph of the bundle."""

    file: str
    data: list[str] = Field(default_factory=list)
    """Files beside it that hold its weights; two graphs with the same weights name the same file."""
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    precision: str
    opset: int = Field(gt=0)
    cost: Cost | None = None
    """None in bundles of before it was counted."""


class EnginePlan(_Part):
    """What `agvas-runtime build` makes of the graphs on the machine they are to run on."""

    precision: Literal["fp16", "int8", "fp8"]
    graphs: list[str]
    """Those that become native engines, in this order; the others stay with ONNX Runtime."""
    ranges: dict[str, tuple[int, int, int]]
    """Name of a dimension that varies to its smallest, usual and largest size."""


class Source(_Part):
    """The checkpoint that the bundle was exported from."""

    checkpoint_sha256: Sha256
    preset: str
    random_weights: bool = False
    """True where the weights are random: good for speed and parity only."""
    plant: dict[str, JsonValue] | None = None
    """Of random weights: the answer that the output head was fitted to write, and what that took."""


def weights_note(random_weights: bool, plant: Mapping[str, Any] | None) -> str:
    """What has to be said beside every figure of a model with random weights; empty for any other."""
    if not random_weights:
        return ""
    note = "random weights: for speed, memory and parity only"
    if plant:
        note += f"; planted answer {plant['answer']!r}"
        if plant.get("untied_parameters"):
            note += f", {plant['untied_parameters'] / 1e6:.1f} M parameters more by untying the output head for it"
    return note


class Preprocessing(_Part):
    """How a frame becomes the two encoders' inputs."""

    semantic: SemanticView
    pixel: PixelView


class ModelSpec(_Part):
    """The numbers of the model that the runtime needs."""

    hidden_size: int = Field(gt=0)
    """Width d of the language model."""
    visual_tokens: int = Field(gt=0)
    """Tokens that the image placeholder expands to: f_s, the newline token if there is one, f_align."""
    map_size: int = Field(gt=0)
    """Side of the decoder's maps."""
    canvas: int = Field(gt=0)
    """Side of the pixel encoder's input."""
    anchor_state: Literal["token", "predicting"]
    """The state that stands for an anchor: at its own position, or the one that emitted it."""
    alpha: float = Field(ge=0, le=1)
    """Share of P_seg in the fused map."""
    threshold: float = Field(ge=0, le=1)
    """The mask is where the fused map lies strictly above this."""


class Manifest(_Part):
    """Everything that a runtime must know of a bundle before it opens any other file."""

    schema_version: Literal[1] = 1
    name: str
    licence: str
    created_with: dict[str, str]
    """Tool to version."""
    source: Source
    files: dict[str, FileEntry] = Field(default_factory=dict)
    """Path inside the bundle (with "/") to what must be found there; write_manifest fills it."""
    graphs: dict[str, GraphSpec]
    preprocessing: Preprocessing
    prompt: PromptSpec
    model: ModelSpec
    engine_plan: EnginePlan | None = None
    """Where the graphs were made for TensorRT."""
    parity: dict[str, JsonValue] = Field(default_factory=dict)
    """Figures that the export measured against the reference."""
    content_sha256: str = ""
    """Of all other fields, see `content_digest`; write_manifest fills it."""

    @model_validator(mode="after")
    def _graphs_are_listed(self) -> "Manifest":
        named = [file for spec in self.graphs.values() for file in (spec.file, *spec.data)]
        if missing := [file for file in named if self.files and file not in self.files]:
            raise ValueError(f"graph file {missing[0]} is not listed under files")
        if self.engine_plan and (unknown := [name for name in self.engine_plan.graphs if name not in self.graphs]):
            raise ValueError(f"engine_plan names the graph {unknown[0]!r}, there is none of that name")
        if self.model.canvas != (size := self.preprocessing.pixel.size):
            raise ValueError(f"model.canvas is {self.model.canvas}, must be the pixel view's {size}")
        return self
