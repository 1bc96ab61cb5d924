"""From an ONNX file to a TensorRT plan on the GPU at hand. Knows nothing of bundles, and not where plans are kept.

The graph is typed: every tensor has its precision in the ONNX file. TensorRT 10 and later take it at its word (strongly
typed network); 8.6 takes half precision as leave, so there what the graph computes in fp32 gets constraints.
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

from agvas_runtime.engines.device import Device, because, call, free_memory, log, make, start
from agvas_runtime.engines.tensorrt_weak_types import set_weak_types
from agvas_runtime.errors import EngineError, InputError

Shape = tuple[int, ...]
Ranges = Mapping[str, tuple[int, int, int]]
"""Name of a dimension to its smallest, usual and largest size."""
Progress = Callable[[str, float], None]
"""Gets the phase's name and how much of it is done, 0 to 1; from any thread."""

OF_OPSET_23 = ("Attention", "RMSNormalization", "RotaryEmbedding")
GIB = 1 << 30
SMALL_DEVICE_BYTES = 17 * GIB
"""Up to this much memory a device counts as small: the workspace leaves most of it to others."""
RESERVE_BYTES = 256 << 20
"""For what the driver and TensorRT take for themselves."""
OLDEST_FP8 = (10, 6)
"""The first TensorRT with a scale for every channel of fp8 weights."""


@dataclass
class Options:
    """How to build; the defaults are right for a typed fp16 graph of constant shape."""

    precision: str = "fp16"
    """fp16, int8 or fp8, of which the last two are explicit Q/DQ nodes in the graph."""
    ranges: Ranges = field(default_factory=dict)
    workspace_bytes: int | None = None
    """The most that one layer's tactic may use; None takes a share of what is free, see `default_workspace`."""
    timing_cache: bytes = b""
    """Of an earlier build on this device: measured tactics are not measured again."""
    level: int | None = None
    """How long to search for fast kernels, 0 to 5; None is TensorRT's own choice."""


@dataclass
class Built:
    """A plan and what building it took."""

    plan: Any
    """Bytes of the serialised engine (any buffer)."""
    timing_cache: bytes
    """Empty where TensorRT has none to give."""
    seconds: float
    workspace_bytes: int
    peak_host_bytes: int
    """Largest resident size of this process so far."""
    peak_device_bytes: int | None
    """Most memory of the device in use, by anyone, whenever a step ended; None where TensorRT reports no steps."""
    warnings: list[str]


def default_workspace(free_bytes: int, memory_bytes: int) -> int:
    """Bytes of workspace: half of what is free, a quarter on a small device."""
    return free_bytes // (4 if memory_bytes <= SMALL_DEVICE_BYTES else 2)


def needed_memory(weight_bytes: int, integrated: bool) -> int:
    """Bytes that must be free for a build to be worth starting, by what has to exist at one time.

    The engine's weights; where CPU and GPU share the memory also the parsed graph and the serialised plan.
    """
    return weight_bytes * (3 if integrated else 1) + RESERVE_BYTES


def profile_shapes(
    graph: str, inputs: Mapping[str, Sequence[int | str]], ranges: Ranges
) -> dict[str, tuple[Shape, Shape, Shape]]:
    """Smallest, usual and largest shape of every input whose shape varies.

    Raises InputError naming the dimension that has no range or a range in the wrong order.
    """
    shapes = {}
    for name, shape in inputs.items():
        sizes = []
        for size in shape:
            if isinstance(size, int):
                sizes.append((size, size, size))
                continue
            if size not in ranges:
                have = ", ".join(ranges) or "none"
                raise InputError(f"graph {graph}: dimension {size!r} of input {name} has no range (there are: {have})")
            low, usual, high = ranges[size]
            if not 0 < low <= usual <= high:
                raise InputError(f"graph {graph}: range of dimension {size!r} is {low}, {usual}, {high}; must not fall")
            sizes.append((low, usual, high))
        if any(isinstance(size, str) for size in shape):
            low_shape, usual_shape, high_shape = (tuple(column) for column in zip(*sizes, strict=True))
            shapes[name] = low_shape, usual_shape, high_shape
    return shapes


def build_plan(
    onnx: Path,
    device: Device,
    options: Options,
    *,
    name: str,
    weight_bytes: int,
    inputs: Mapping[str, Sequence[int | str]] | None = None,
    progress: Progress | None = None,
) -> Built:
    """Build an engine.

    Args:
        onnx: the graph; its external data lies beside it.
        device: what `probe` found.
        options: precision, ranges, workspace.
        name: what messages call the graph.
        weight_bytes: size of the graph with its data.
        inputs: name to shape, dimensions that vary by their names; None reads them from the graph.
        progress: is told how far the build is, where TensorRT says so (10 and later).

    Raises:
        EngineError: one line with the graph, and the node where it is the parser that refuses; fp8 before 10.6.
        InputError: a range is missing or wrong.
    """
    if options.precision == "fp8" and _version(device.tensorrt) < OLDEST_FP8:
        raise EngineError(f"graph {name}: fp8 needs TensorRT 10.6 or later, this is {device.tensorrt}")
    trt = import_module("tensorrt")
    free = free_memory(device.integrated)
    workspace = options.workspace_bytes or default_workspace(free, device.memory_bytes)
    _check_memory(name, free, weight_bytes, workspace if options.workspace_bytes else 0, device)
    log().take()
    began = time.perf_counter()
    builder = start("Builder")
    kinds = trt.NetworkDefinitionCreationFlag
    strong = hasattr(kinds, "STRONGLY_TYPED")
    flags = 1 << int(kinds.STRONGLY_TYPED if strong else kinds.EXPLICIT_BATCH)
    cannot = f"graph {name}: TensorRT {device.tensorrt} could not build it"
    network = make(cannot, builder.create_network, flags)
    parser = make(cannot, trt.OnnxParser, network, log())
    if not call(cannot, parser.parse_from_file, str(onnx)):
        raise EngineError(f"graph {name}: TensorRT {device.tensorrt} cannot take it: {_parser_errors(parser)}")
    _let_attention_decompose(trt, network)
    config = make(cannot, builder.create_builder_config)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    if options.level is not None:
        config.builder_optimization_level = options.level
    config.clear_flag(trt.BuilderFlag.TF32)  # what the graph keeps in fp32, it keeps for its precision
    if not strong:
        _share_profile(trt, config)
        set_weak_types(trt, config, network, options.precision)
    _add_profile(builder, config, network, name, inputs, options.ranges)
    _set_timing_cache(config, options.timing_cache)
    monitor = _monitor(trt, progress, device.integrated) if hasattr(trt, "IProgressMonitor") else None
    if monitor:
        config.progress_monitor = monitor
    plan = call(cannot, builder.build_serialized_network, network, config)
    if monitor and monitor.stopped_by:
        raise monitor.stopped_by
    errors, warnings = log().take()
    if plan is None:
        hint = "; free device memory, or try a smaller --workspace-mb" if "memory" in because(errors).lower() else ""
        raise EngineError(f"{cannot}: {because(errors)}{hint}")
    lowest = monitor.lowest_free if monitor else None
    return Built(
        plan=plan,
        timing_cache=_timing_cache(config),
        seconds=time.perf_counter() - began,
        workspace_bytes=workspace,
        peak_host_bytes=getrusage(RUSAGE_SELF).ru_maxrss * 1024,
        peak_device_bytes=None if lowest is None else device.memory_bytes - lowest,
        warnings=warnings[:20],
    )


def _version(text: str) -> tuple[int, ...]:
    """Major and minor of "10.9.0.34"."""
    return tuple(int(number) for number in text.split(".")[:2])


def _check_memory(name: str, free: int, weight_bytes: int, asked_workspace: int, device: Device) -> None:
    needed = needed_memory(weight_bytes, device.integrated) + asked_workspace
    if free < needed:
        what = f"{weight_bytes >> 20} MB of weights, {asked_workspace >> 20} MB of workspace"
        raise EngineError(
            f"graph {name}: {free >> 20} of {device.memory_bytes >> 20} MB are free on {device.gpu}, "
            f"building takes at least {needed >> 20} MB ({what}): stop what else uses the GPU"
        )


def _parser_errors(parser: Any) -> str:
    """The parser's first error with its node, in one line."""
    if not parser.num_errors:
        return because(log().take()[0])
    error = parser.get_error(0)
    if hasattr(error, "node_name"):
        where = f"node {error.node_name()!r} ({error.node_operator()})"
    else:
        where = f"node {error.node()}"
    more = f" (and {parser.num_errors - 1} more)" if parser.num_errors > 1 else ""
    text = f"{where}: {' '.join(error.desc().split())[:400]}{more}"
    return text + opset_hint(error.node_operator() if hasattr(error, "node_operator") else error.desc())


def opset_hint(refused: str) -> str:
    """How to do without the operators of opset 23, where what was refused names one of them; else empty."""
    named = re.search(rf"\b({'|'.join(OF_OPSET_23)})\b", refused)
    return "; export with --opset 17 (19 for int8 and fp8)" if named else ""


def _let_attention_decompose(trt: Any, network: Any) -> None:
    """Allow attention in several kernels: the parser asks for a single one, which there is not for every mask."""
    kind = getattr(trt.LayerType, "ATTENTION_INPUT", None)
    for index in range(network.num_layers if kind is not None else 0):
        layer = network.get_layer(index)
        if layer.type == kind:
            layer.__class__ = trt.IAttentionInputLayer  # get_layer gives the base class, which lacks `attention`
            layer.attention.decomposable = True


def _share_profile(trt: Any, config: Any) -> None:
    """TensorRT 8: let several contexts, one for each set of shapes, run with the one profile; later ones always do."""
    sharing = getattr(getattr(trt, "PreviewFeature", None), "PROFILE_SHARING_0806", None)
    if sharing is not None:
        config.set_preview_feature(sharing, True)


def _add_profile(
    builder: Any, config: Any, network: Any, name: str, given: Mapping[str, Sequence[int | str]] | None, ranges: Ranges
) -> None:
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    found = {tensor.name: _named_shape(tensor) for tensor in tensors}
    if given is not None and given.keys() != found.keys():
        raise EngineError(f"graph {name}: its inputs are {', '.join(found)}, the manifest says {', '.join(given)}")
    if values := [tensor.name for tensor in tensors if tensor.is_shape_tensor]:
        raise EngineError(
            f"graph {name}: shapes in it depend on the values of input {values[0]}, which agvas cannot run"
        )
    if shapes := profile_shapes(name, found if given is None else given, ranges):
        refuses = f"graph {name}: TensorRT refuses its range of shapes"
        profile = make(refuses, builder.create_optimization_profile)
        for tensor, (low, usual, high) in shapes.items():
            call(f"{refuses} of {tensor}", profile.set_shape, tensor, low, usual, high)
        if call(refuses, config.add_optimization_profile, profile) < 0:
            raise EngineError(f"{refuses}: {because(log().take()[0])}")


def _named_shape(tensor: Any) -> list[int | str]:
    return [size if size >= 0 else tensor.get_dimension_name(axis) for axis, size in enumerate(tensor.shape)]


def _set_timing_cache(config: Any, content: bytes) -> None:
    """Use an earlier build's measurements; those of another device or version are refused, then begin anew."""
    for start_with in dict.fromkeys((content, b"")):
        cache = config.create_timing_cache(start_with)
        if cache is not None and config.set_timing_cache(cache, False):
            return
        log().take()


def _timing_cache(config: Any) -> bytes:
    cache = config.get_timing_cache()
    content = None if cache is None else cache.serialize()
    return b"" if content is None else bytes(memoryview(content))


def _monitor(trt: Any, progress: Progress | None, integrated: bool) -> Any:
    """Passes the outermost phase's steps on and looks at the device's memory between them."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.stopped_by: BaseException | None = None
            self.lowest_free: int | None = None
            self.outermost: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if not parent_phase:
                self.outermost[phase_name] = num_steps

        def phase_finish(self, phase_name: str) -> None:
            self.outermost.pop(phase_name, None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                free = free_memory(integrated)
                self.lowest_free = free if self.lowest_free is None else min(free, self.lowest_free)
                if progress and (steps := self.outermost.get(phase_name)):
                    progress(phase_name, min((step + 1) / steps, 1.0))
            except BaseException as error:  # Ctrl-C, too: nothing may be raised through TensorRT's own frames
                self.stopped_by = error
            return self.stopped_by is None

    return Monitor()
