"""Tensors on their way into and out of an engine: what it takes, converting to that, and what stays on the device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.engines.device import check
from agvas_runtime.errors import EngineError

if TYPE_CHECKING:
    from agvas_runtime.engines.tensorrt_run import TrtEngine

Shape = tuple[int, ...]

DTYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
    "UINT8": np.uint8,
}


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of an engine; for outputs all three shapes are the graph's own, -1 where it varies."""

    dtype: np.dtype[Any]
    smallest: Shape
    usual: Shape
    largest: Shape

    def __str__(self) -> str:
        sizes = (str(a) if a == b else f"{a}..{b}" for a, b in zip(self.smallest, self.largest, strict=True))
        return f"{self.dtype}[{', '.join(sizes)}]"

    def takes(self, shape: Shape) -> bool:
        """Whether the shape lies within the range."""
        low_high = zip(self.smallest, shape, self.largest, strict=True)
        return len(shape) == len(self.largest) and all(low <= size <= high for low, size, high in low_high)


class DeviceArray:
    """An output in the device's memory, valid until its engine runs again; `numpy.asarray` waits, then copies it."""

    device = "cuda"

    def __init__(self, engine: TrtEngine, name: str, address: int, shape: Shape, dtype: np.dtype[Any]) -> None:
        self.engine, self.name, self.address, self.shape, self.dtype = engine, name, address, shape, dtype
        self._run = engine.runs

    @property
    def size_bytes(self) -> int:
        """Bytes that it takes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def check_valid(self) -> None:
        """Raise EngineError where the engine has run again, or was closed."""
        if self._run != self.engine.runs:
            raise EngineError(f"graph {self.engine.name}: output {self.name} of an earlier run is overwritten")

    def ready(self) -> int:
        """Its address, after waiting for what writes there. Raises EngineError where it is overwritten already."""
        self.check_valid()
        self.engine.synchronize()
        return self.address

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("a tensor in the device's memory cannot be had without a copy")
        self.check_valid()
        session, what = self.engine.session, f"graph {self.engine.name}: output {self.name}"
        host: NDArray[Any] = np.empty(self.shape, self.dtype)
        kind = session.cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        copied = session.cuda.cudaMemcpyAsync(host.ctypes.data, self.address, host.nbytes, kind, session.stream)
        check(copied, what)
        session.synchronize(what)
        return host if dtype is None else host.astype(dtype, copy=False)


def converted(what: str, feed: Any, wanted: np.dtype[Any]) -> NDArray[Any]:
    """A tensor from the host, contiguous and in the graph's dtype. Integers must fit; floats may become infinite.

    Raises EngineError beginning with `what` where the dtype is of another kind or a number does not fit.
    """
    array = np.asarray(feed)
    if array.dtype != wanted:
        if not np.can_cast(array.dtype, wanted, "same_kind"):
            raise EngineError(f"{what}: given {array.dtype}, expected {wanted}")
        if wanted.kind in "iu" and array.size:
            limits = np.iinfo(wanted)
            low, high = int(array.min()), int(array.max())
            if low < limits.min or high > limits.max:
                raise EngineError(f"{what}: {low}..{high} does not fit {wanted}")
        with np.errstate(over="ignore"):
            array = array.astype(wanted)
    return np.ascontiguousarray(array).reshape(array.shape)  # ascontiguousarray makes a scalar 1-D
