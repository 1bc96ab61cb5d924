"""Runs TensorRT plans on cuda-python. Knows one graph an engine; nothing of bundles or of where plans are kept.

An output stays on the device; the next engine reads it where it lies. For each set of shapes and addresses an engine
keeps an execution context and its CUDA graph: a graph is only valid as long as its context is left alone.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from agvas_runtime.engines import Array, InDevice, release
from agvas_runtime.engines.device import Buffer, because, call, check, log, make
from agvas_runtime.engines.tensorrt_session import Session
from agvas_runtime.engines.tensorrt_tensors import DTYPES, DeviceArray, Shape, TensorInfo, converted
from agvas_runtime.errors import EngineError

RUNS_KEPT = 8
"""Sets of shapes that an engine keeps prepared, the last used ones."""
RUNS_KEPT_UNSHARED = 2
"""The same where every one of them takes context memory of its own."""


@dataclass
class _Run:
    """A context with its shapes and addresses set, and the CUDA graph of its enqueue, if it could be captured."""

    context: Any
    outputs: dict[str, Shape]
    graph: Any = None
    sources: list[Array] = field(default_factory=list)


class TrtEngine:
    """One plan. Not thread-safe, like the session it belongs to."""

    def __init__(self, name: str, plan: Any, session: Session) -> None:
        """Load a plan (any buffer that this machine built itself: it is native code). Raises EngineError."""
        self.name, self.session, self.runs = name, session, 0
        trt = session.trt
        log().take()
        cannot = f"graph {name}: TensorRT {trt.__version__} cannot open its plan"
        self._engine = make(cannot, session.runtime.deserialize_cuda_engine, plan)
        self.inputs: dict[str, TensorInfo] = {}
        self.outputs: dict[str, TensorInfo] = {}
        for index in range(self._engine.num_io_tensors):
            tensor = self._engine.get_tensor_name(index)
            is_input = self._engine.get_tensor_mode(tensor) == trt.TensorIOMode.INPUT
            (self.inputs if is_input else self.outputs)[tensor] = self._info(tensor, is_input)
        self._buffers = {
            tensor: Buffer(session.cuda, f"graph {name}: {tensor}") for tensor in (*self.inputs, *self.outputs)
        }
        self._in_place: dict[str, Any] = {}  # input to the read-only array that its buffer holds
        self._prepared: OrderedDict[Any, _Run] = OrderedDict()
        # From 10.1 on contexts take memory from outside with its size; before, each has its own.
        self._shares = hasattr(self._engine, "device_memory_size_v2") and hasattr(
            trt.IExecutionContext, "set_device_memory"
        )
        self.scratch_bytes = int(
            self._engine.device_memory_size_v2 if self._shares else self._engine.device_memory_size
        )
        session.add(self, self.scratch_bytes if self._shares else 0)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, DeviceArray]:
        """Enqueue the graph and return at once: input name to tensor -> output name to tensor on the device.

        A tensor from the host is converted to the graph's dtype (integers must fit, floats beyond half's range become
        infinite) and must not be changed before an output has been read; one on the device must have that dtype. A
        read-only array counts as constant: where the last run had the same object, it is not copied again.

        Raises:
            EngineError: a feed is missing or unknown, has another dtype or a shape outside the profile, or CUDA fails.
                What fails on the device itself is raised by whoever waits for it first.
        """
        if feeds.keys() != self.inputs.keys():
            raise EngineError(f"graph {self.name}: given {', '.join(feeds)}, expected {', '.join(self.inputs)}")
        sources: list[Array] = []
        shapes, addresses = {}, {}
        for tensor in self.inputs:
            shapes[tensor], addresses[tensor] = self._place(tensor, feeds[tensor], sources)
        key = (*shapes.values(), *addresses.values())
        self.runs += 1  # from here on earlier outputs are overwritten
        run = self._prepared.get(key)
        if run is None:
            run = self._prepared[key] = self._prepare(shapes, addresses)
        else:
            self._launch(run)
        self._prepared.move_to_end(key)
        run.sources = sources  # memory that a copy may still read; until this run's next turn
        return {
            tensor: DeviceArray(self, tensor, self._buffers[tensor].address, shape, self.outputs[tensor].dtype)
            for tensor, shape in run.outputs.items()
        }

    def synchronize(self) -> None:
        """Wait for all that this engine's session has enqueued. Raises EngineError if any of it failed."""
        self.session.synchronize(f"graph {self.name}")

    def replay(self) -> None:
        """Enqueue the last run once more on the inputs that lie in place, for timing. Raises EngineError."""
        if not self._prepared:
            raise EngineError(f"graph {self.name}: has not run yet")
        self._launch(next(reversed(self._prepared.values())))

    @property
    def replays_graph(self) -> bool:
        """Whether the last run is a captured CUDA graph."""
        return bool(self._prepared) and next(reversed(self._prepared.values())).graph is not None

    def close(self) -> None:
        """Wait, then release everything; a second call does nothing.

        Raises the first EngineError after everything was tried.
        """
        if self._engine is None:
            return
        self.runs += 1
        frees = [buffer.free for buffer in self._buffers.values()]
        release(self.synchronize, self.forget_runs, *frees, self._let_go)

    def _let_go(self) -> None:
        self._engine = None
        self.session.remove(self)

    def forget_runs(self) -> None:
        """Drop every prepared run. The stream must be idle. Raises EngineError after all were dropped."""
        runs = list(self._prepared.values())
        self._prepared.clear()
        release(*(partial(self._release, run) for run in runs))

    def _info(self, tensor: str, is_input: bool) -> TensorInfo:
        kind = self._engine.get_tensor_dtype(tensor).name
        if kind not in DTYPES:
            raise EngineError(f"graph {self.name}: {tensor} is {kind}, which NumPy has not")
        shape = tuple(self._engine.get_tensor_shape(tensor))
        if not is_input or -1 not in shape:
            return TensorInfo(np.dtype(DTYPES[kind]), shape, shape, shape)
        low, usual, high = (tuple(dims) for dims in self._engine.get_tensor_profile_shape(tensor, 0))
        return TensorInfo(np.dtype(DTYPES[kind]), low, usual, high)

    def _place(self, tensor: str, feed: Array, sources: list[Array]) -> tuple[Shape, int]:
        """Shape and address of an input: an output of this session where it lies, everything else copied."""
        info, buffer = self.inputs[tensor], self._buffers[tensor]
        constant = isinstance(feed, np.ndarray) and not feed.flags.writeable
        if constant and self._in_place.get(tensor) is feed:
            return feed.shape, buffer.address
        value = self._fitting(tensor, feed)
        if isinstance(value, DeviceArray) and value.engine.session is self.session and value.engine is not self:
            value.check_valid()
            return value.shape, value.address
        buffer.reserve(math.prod(info.largest) * info.dtype.itemsize)
        self._in_place[tensor] = None
        self._copy(tensor, buffer.address, value)
        sources.append(value)
        self._in_place[tensor] = feed if constant else None
        return value.shape, buffer.address

    def _fitting(self, tensor: str, feed: Array) -> Array:
        """A feed in the graph's dtype, on the device or on the host. Raises EngineError where that is not possible."""
        info, what = self.inputs[tensor], f"graph {self.name}: input {tensor}"
        on_device = isinstance(feed, InDevice) and feed.device == "cuda"
        value = feed if on_device else converted(what, feed, info.dtype)
        if value.dtype != info.dtype or not info.takes(value.shape):
            where = " on the device" if on_device else ""
            raise EngineError(f"{what}: given {value.dtype}{list(value.shape)}{where}, expected {info}")
        return value

    def _copy(self, tensor: str, target: int, value: Array) -> None:
        cuda = self.session.cuda
        if isinstance(value, DeviceArray) and value.engine is self:  # on the same stream
            value.check_valid()
            source, kind = value.address, cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        elif isinstance(value, InDevice):
            source, kind = value.ready(), cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        else:
            source, kind = value.ctypes.data, cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        size = math.prod(value.shape) * value.dtype.itemsize
        check(
            cuda.cudaMemcpyAsync(target, source, size, kind, self.session.stream), f"graph {self.name}: input {tensor}"
        )

    def _prepare(self, shapes: Mapping[str, Shape], addresses: Mapping[str, int]) -> _Run:
        """A context for these shapes and addresses; runs it, then captures its graph for the next time."""
        session = self.session
        session.synchronize(f"graph {self.name}")
        log().take()
        while len(self._prepared) >= (RUNS_KEPT if self._shares else RUNS_KEPT_UNSHARED):
            self._release(self._prepared.popitem(last=False)[1])
        context = self._context()
        for tensor, shape in shapes.items():
            if not context.set_input_shape(tensor, shape):
                raise EngineError(f"graph {self.name}: input {tensor}: TensorRT refuses shape {list(shape)}")
        if unknown := call(f"graph {self.name}: its shapes cannot be inferred", context.infer_shapes):
            raise EngineError(f"graph {self.name}: the shapes of {', '.join(unknown)} are not known before it runs")
        outputs = {tensor: tuple(context.get_tensor_shape(tensor)) for tensor in self.outputs}
        if varying := [tensor for tensor, shape in outputs.items() if -1 in shape]:
            raise EngineError(f"graph {self.name}: the shape of output {varying[0]} depends on values")
        places = dict(addresses)
        for tensor, shape in outputs.items():
            needed = math.prod(shape) * self.outputs[tensor].dtype.itemsize
            # At once as much as the largest shape takes, so that addresses stay and graphs with them.
            if self._buffers[tensor].reserve(max(needed, int(context.get_max_output_size(tensor)))):
                self.forget_runs()
            places[tensor] = self._buffers[tensor].address
        for tensor, address in places.items():
            if not context.set_tensor_address(tensor, address):
                raise EngineError(f"graph {self.name}: TensorRT refuses the address of {tensor}")
        run = _Run(context, outputs)
        self._launch(run)
        run.graph = self._capture(context)
        return run

    def _context(self) -> Any:
        """An execution context on the session's memory where it can be shared."""
        create, doing = self._engine.create_execution_context, f"graph {self.name}: no execution context"
        if not self._shares:
            return make(doing, create)
        scratch = self.session.scratch
        if scratch.size < self.scratch_bytes:  # an engine that was added later could not have the memory it needed
            raise EngineError(f"{doing}: it takes {self.scratch_bytes} bytes, the session has {scratch.size}")
        context = make(doing, create, self.session.trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        log().take()
        call(doing, context.set_device_memory, scratch.address, scratch.size)
        if errors := log().take()[0]:  # it returns nothing, whether it took the memory or not
            raise EngineError(f"{doing}: {because(errors)}")
        return context

    def _launch(self, run: _Run) -> None:
        cuda, stream = self.session.cuda, self.session.stream
        if run.graph is not None:
            check(cuda.cudaGraphLaunch(run.graph, stream), f"graph {self.name}")
        elif not run.context.execute_async_v3(int(stream)):
            raise EngineError(f"graph {self.name}: TensorRT could not run it: {because(log().take()[0])}")

    def _capture(self, context: Any) -> Any:
        """The enqueue as a CUDA graph; None where the engine cannot be captured: then it is enqueued every time."""
        cuda, stream = self.session.cuda, self.session.stream
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        if int(cuda.cudaStreamBeginCapture(stream, mode)[0]):
            return None
        enqueued = context.execute_async_v3(int(stream))
        code, graph = cuda.cudaStreamEndCapture(stream)
        captured = None
        if not int(code) and int(graph):
            if enqueued:
                code, instance = cuda.cudaGraphInstantiate(graph, 0)
                captured = None if int(code) else instance
            cuda.cudaGraphDestroy(graph)
        if captured is None:
            cuda.cudaGetLastError()  # a failed capture leaves its error behind for the next call
            log().take()
        return captured

    def _release(self, run: _Run) -> None:
        graph, run.graph, run.context = run.graph, None, None
        if graph is not None:
            check(self.session.cuda.cudaGraphExecDestroy(graph), f"graph {self.name}")
