"""ONNX Runtime on a device: feeds are bound where they lie or copied there, outputs stay there as tensors.

The device is "cuda". "cpu" is the same way in the machine's own memory: for tests, `ort.py` is faster there.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.engines import Array, InDevice
from agvas_runtime.engines.ort import CPU, CUDA, ON_CPU, Providers, failure, one_line, onnxruntime, open_session, ports
from agvas_runtime.errors import EngineError

ON_CUDA: Providers = {CUDA: {"use_tf32": "0"}, CPU: {}}
"""TF32 is off: what a graph keeps in float32, it keeps for its precision. The CPU has the nodes that CUDA has not."""
NUMPY_NAMES = {"float": "float32", "double": "float64"}
"""Where ONNX Runtime's names of element types are not NumPy's."""


class BoundTensor:
    """An output in the device's memory. It is never overwritten, and lives as long as it is held."""

    def __init__(self, name: str, value: Any, session: Any, device: str) -> None:
        self.name, self.device = name, device
        self._value, self._session = value, session  # its memory comes from the session
        self.shape: tuple[int, ...] = tuple(value.shape())
        kind = value.data_type().removeprefix("tensor(").removesuffix(")")
        self.dtype: np.dtype[Any] = np.dtype(NUMPY_NAMES.get(kind, kind))

    def ready(self) -> int:
        """Its address; the run that wrote it is over."""
        return int(self._value.data_ptr())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False and self.device != "cpu":
            raise ValueError("a tensor in the device's memory cannot be had without a copy")
        try:
            array: NDArray[Any] = self._value.numpy()
        except Exception as error:
            raise EngineError(f"{self.name}: {one_line(error)}") from None
        return np.array(array, dtype) if copy else np.asarray(array, dtype)


class BoundEngine:
    """A graph in ONNX Runtime on a device. Not thread-safe; several engines may run at once, each in its thread."""

    def __init__(self, path: Path | str, threads: int | None = None, *, device: str = "cuda") -> None:
        """Load the ONNX file at `path`.

        Host feeds go to the device through page-locked memory where ONNX Runtime lends it to Python: 1.32 does in
        builds that have CUDA as a plugin, which list it in `get_ep_devices()`; 1.23 does not. Elsewhere they are
        copied from where they are.

        Args:
            threads: of the nodes that run on the CPU, as in `OrtEngine`.
            device: "cuda", the first GPU that CUDA shows; or "cpu".

        Raises EngineError: CUDA is not there or does not start, or the graph cannot be loaded.
        """
        self.name, self.device = Path(path).stem, device
        self._ort = onnxruntime()
        if device == "cuda":
            _load_cuda(self._ort)
        self._session: Any = open_session(path, threads, ON_CUDA if device == "cuda" else ON_CPU)
        self._binding: Any = self._session.io_binding()
        self.inputs, self.outputs = ports(self._session)
        self._on_host = _read_on_host(self._session) if device == "cuda" else set()
        self._page_locked = page_locked(self._ort) if device == "cuda" else None
        self._buffers: dict[tuple[str, str], Any] = {}
        self._bound_constants: dict[str, NDArray[Any]] = {}

    def run(self, feeds: Mapping[str, Array]) -> dict[str, BoundTensor]:
        """Run the graph and wait for it: input name to tensor -> output name to tensor on the device.

        A tensor on this device is read where it lies, whichever engine made it; one from the host is copied there. A
        read-only array counts as constant: where the last run had the same object, it is not copied again.

        Raises EngineError naming the graph and what it was given.
        """
        if feeds.keys() != self.inputs.keys():
            raise EngineError(f"graph {self.name}: given {', '.join(feeds)}, expected {', '.join(self.inputs)}")
        feeds = {name: feed if isinstance(feed, InDevice) else np.asarray(feed) for name, feed in feeds.items()}
        try:
            for name, feed in feeds.items():
                self._bind(name, feed)
            for name in self.outputs:  # anew: what is bound from the last run would be written over
                self._binding.bind_output(name, self.device)
            self._session.run_with_iobinding(self._binding)
            values = self._binding.get_outputs()
            self._binding.clear_binding_outputs()  # they belong to whoever holds them
        except EngineError:
            raise
        except Exception as error:
            raise failure(self.name, error, feeds) from None
        return {
            name: BoundTensor(f"graph {self.name}: output {name}", value, self._session, self.device)
            for name, value in zip(self.outputs, values, strict=True)
        }

    def synchronize(self) -> None:
        """Nothing to wait for: at the end of a run ONNX Runtime waits for its stream, unless it is told not to."""

    def close(self) -> None:
        """Let the session go; its memory goes with the last output that is still held."""
        self._binding = self._session = None
        self._buffers.clear()
        self._bound_constants.clear()

    def _bind(self, name: str, feed: Array) -> None:
        """Bind an input to where its tensor lies, or to a copy. All copies are over when this returns."""
        constant = isinstance(feed, np.ndarray) and not feed.flags.writeable
        if constant and self._bound_constants.get(name) is feed:
            return
        self._bound_constants.pop(name, None)
        if isinstance(feed, InDevice) and feed.device == self.device and name not in self._on_host:
            self._binding.bind_input(name, self.device, 0, feed.dtype, feed.shape, feed.ready())
            return
        value = self._placed(name, np.asarray(feed, order="C"), constant)
        self._binding.bind_ortvalue_input(name, value)
        if isinstance(feed, np.ndarray) and constant:
            self._bound_constants[name] = feed

    def _placed(self, name: str, array: NDArray[Any], constant: bool) -> Any:
        """An array as an OrtValue where the graph reads it."""
        if name in self._on_host:
            value = self._buffers[name, "host"] = self._ort.OrtValue.ortvalue_from_numpy(array)  # not a copy
            return value
        if self._page_locked is not None and not constant:
            staged = self._buffer(name, "page-locked", array).numpy()
            staged[...] = array
            array = staged
        value = self._buffer(name, self.device, array)
        value.update_inplace(array)
        return value

    def _buffer(self, name: str, where: str, array: NDArray[Any]) -> Any:
        """Memory for an array, the last run's where that fits."""
        value, kind = self._buffers.get((name, where), (None, None))
        if kind != (array.shape, array.dtype):
            place = {"memory_info": self._page_locked} if where == "page-locked" else {"device_type": where}
            value = self._ort.OrtValue.ortvalue_from_shape_and_type(array.shape, array.dtype, **place)
            self._buffers[name, where] = value, (array.shape, array.dtype)
        return value


def page_locked(ort: Any) -> Any:
    """Which memory of the host CUDA copies from without staging, as `memory_info`; None where there is none to be had.

    Args:
        ort: the module onnxruntime.
    """
    try:
        device = next(device for device in ort.get_ep_devices() if device.ep_name == CUDA)
        info = device.memory_info(ort.OrtDeviceMemoryType.HOST_ACCESSIBLE)
        value = ort.OrtValue.ortvalue_from_shape_and_type([1], np.uint8, memory_info=info)
        return info if value.numpy().ctypes.data == value.data_ptr() else None
    except Exception:  # whatever is missing of it, and each version lacks something else
        return None


def _read_on_host(session: Any) -> set[str]:
    """Inputs that go to nodes on the CPU: to place them on the device would only bring them back."""
    if not hasattr(session, "get_input_memory_infos"):
        return set()
    placed = zip(session.get_inputs(), session.get_input_memory_infos(), strict=True)
    return {spec.name for spec, info in placed if info.name == "Cpu"}


def _load_cuda(ort: Any) -> None:
    """Load CUDA's libraries from NVIDIA's Python packages, where ONNX Runtime itself does not look for them."""
    if hasattr(ort, "preload_dlls"):
        with redirect_stdout(io.StringIO()):  # it prints what it does not find; whether CUDA starts is told anyway
            ort.preload_dlls()
