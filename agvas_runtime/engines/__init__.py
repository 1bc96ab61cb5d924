"""What runs a graph. An engine knows one graph and nothing of images, prompts or verdicts."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.errors import EngineError

Tensors = dict[str, NDArray[Any]]


@runtime_checkable
class InDevice(Protocol):
    """A tensor in a device's memory; `numpy.asarray` copies it back."""

    @property
    def device(self) -> str:
        """Whose memory: "cuda", or "cpu" where an engine that could work on a device works on the CPU."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """What its numbers are."""
        ...

    def ready(self) -> int:
        """Its address, once everything is written there. Raises EngineError where it is overwritten already."""
        ...

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]: ...


Array = NDArray[Any] | InDevice
"""A tensor wherever it lies: what engines take and give. One on its own device an engine reads where it lies."""


class Engine(Protocol):
    """One compiled graph."""

    def run(self, feeds: Mapping[str, Any]) -> Mapping[str, Any]:
        """Run the graph: input name to Array -> output name to Array. Raises EngineError naming the graph.

        What comes back stays valid until the next run, and may still be in the making, see `synchronize`.
        """
        ...

    def synchronize(self) -> None:
        """Wait until everything that was asked for is done. Raises EngineError."""
        ...

    def close(self) -> None:
        """Give the memory back. A second call does nothing."""
        ...


def release(*steps: Callable[[], object]) -> None:
    """Take every step, whatever the others raise; afterwards raise the first EngineError there was.

    After an error of the device itself every call fails; what can be given back still is.
    """
    first: EngineError | None = None
    for step in steps:
        try:
            step()
        except EngineError as error:
            first = first or error
    if first:
        raise first
