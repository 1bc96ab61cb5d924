"""What the protocol's one model takes and gives. Tensors are read in `inputs.py` and made in `outputs.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agvas_runtime import __version__
from agvas_runtime.errors import NotFound
from agvas_runtime.proto.inference import open_inference_pb2 as oi

NAME, VERSION = "agvas", "1"
SERVICE = "inference.GRPCInferenceService"
EXTENSIONS = ("model_configuration", "model_repository", "parameters", "statistics", "system_shared_memory")
"""Of the protocol, by the names that Triton gave them."""
ANY = -1
"""A size that requests choose."""


@dataclass(frozen=True)
class Tensor:
    """A tensor's datatype and shape; `ANY` where a request chooses."""

    datatype: str
    shape: tuple[int, ...]

    @property
    def config_type(self) -> str:
        """The datatype as a model's configuration names it."""
        return "TYPE_STRING" if self.datatype == "BYTES" else f"TYPE_{self.datatype}"


INPUTS: Mapping[str, Tensor] = {
    "FRAME": Tensor("UINT8", (ANY, ANY, 3)),
    "IMAGE": Tensor("BYTES", (1,)),
    "INSTRUCTION": Tensor("BYTES", (1,)),
    "CLASS_NAME": Tensor("BYTES", (1,)),
}
"""FRAME may have two dimensions as well; it or IMAGE has to be there."""
OUTPUTS: Mapping[str, Tensor] = {
    "MASK": Tensor("UINT8", (ANY, ANY)),
    "PROBABILITY": Tensor("FP32", (ANY, ANY)),
    "VERDICT": Tensor("BYTES", (1,)),
    "SCORE": Tensor("FP32", (1,)),
    "ANSWER": Tensor("BYTES", (1,)),
}


def check_model(name: str, version: str) -> None:
    """Raise NotFound for another model than this one."""
    if name != NAME:
        raise NotFound(f"model_name: found {name!r}, which is no model of this server, expected {NAME!r}")
    if version not in ("", VERSION):
        raise NotFound(f"model_version: found {version!r}, which model {NAME} does not have, expected {VERSION!r}")


def server_metadata() -> oi.ServerMetadataResponse:
    """What the server is."""
    return oi.ServerMetadataResponse(name="agvas", version=__version__, extensions=EXTENSIONS)


def metadata() -> oi.ModelMetadataResponse:
    """What the model takes and gives."""
    return oi.ModelMetadataResponse(
        name=NAME, versions=[VERSION], platform="agvas", inputs=_tensors(INPUTS), outputs=_tensors(OUTPUTS)
    )


def config() -> oi.ModelConfig:
    """The same as a model of Triton would be configured."""
    return oi.ModelConfig(
        name=NAME,
        platform="agvas",
        backend="agvas",
        max_batch_size=0,
        input=[
            oi.ModelInput(name=name, data_type=tensor.config_type, dims=tensor.shape, optional=True)
            for name, tensor in INPUTS.items()
        ],
        output=[
            oi.ModelOutput(name=name, data_type=tensor.config_type, dims=tensor.shape)
            for name, tensor in OUTPUTS.items()
        ],
        model_transaction_policy=oi.ModelTransactionPolicy(decoupled=False),
    )


def names(tensors: Mapping[str, Tensor]) -> str:
    """The names of tensors as a sentence has them."""
    *most, last = tensors
    return f"{', '.join(most)} or {last}"


def shape_text(shape: Sequence[int]) -> str:
    """A shape as Triton's users write it."""
    return f"[{','.join(map(str, shape))}]"


def _tensors(tensors: Mapping[str, Tensor]) -> list[oi.ModelMetadataResponse.TensorMetadata]:
    return [
        oi.ModelMetadataResponse.TensorMetadata(name=name, datatype=tensor.datatype, shape=tensor.shape)
        for name, tensor in tensors.items()
    ]
