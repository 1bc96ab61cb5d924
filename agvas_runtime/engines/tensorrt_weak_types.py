"""TensorRT 8: precision of a typed graph's layers. Its networks know no types: half is allowed, fp32 is bound."""

from collections.abc import Iterator
from typing import Any


def set_weak_types(trt: Any, config: Any, network: Any, precision: str) -> None:
    """TensorRT 8: allow half (and int8), and bind to fp32 whatever the graph computes in fp32.

    Nothing that takes its values from a dequantiser is bound: that is what is to run in int8. Layers that only move
    values are: in half they would round them.
    """
    config.set_flag(trt.BuilderFlag.FP16)
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    if precision == "int8":
        config.set_flag(trt.BuilderFlag.INT8)
    kinds = trt.LayerType
    free = [getattr(kinds, kind, None) for kind in ("CONSTANT", "SHAPE", "CAST", "QUANTIZE", "DEQUANTIZE")]
    half = _halves(trt, network)
    dequantised: set[str] = set()
    for layer, inputs, outputs in _layers(network):
        from_dequantiser = any(tensor.name in dequantised for tensor in inputs)
        if layer.type == kinds.DEQUANTIZE or (layer.type == kinds.SHUFFLE and from_dequantiser):
            dequantised.update(tensor.name for tensor in outputs)
        elif layer.type not in free and not from_dequantiser and not _is_cast(trt, layer):
            for number, tensor in enumerate(outputs):
                if tensor.dtype == trt.DataType.FLOAT and tensor.name not in half and not tensor.is_shape_tensor:
                    layer.precision = trt.DataType.FLOAT
                    layer.set_output_type(number, trt.DataType.FLOAT)


def _halves(trt: Any, network: Any) -> set[str]:
    """The tensors that the graph computes in half; TensorRT 8 calls them FLOAT, like all floats behind a layer.

    What is told is the type of a constant and of a cast; in a typed graph everything else has the type it is given.
    """
    given = (network.get_input(index) for index in range(network.num_inputs))
    found = {tensor.name for tensor in given if tensor.dtype == trt.DataType.HALF}
    for layer, inputs, outputs in _layers(network):
        if _is_cast(trt, layer):
            half = layer.get_output_type(0) == trt.DataType.HALF
        elif layer.type == trt.LayerType.CONSTANT:
            half = outputs[0].dtype == trt.DataType.HALF
        else:
            half = any(tensor.name in found for tensor in inputs)
        if half:
            floats = (trt.DataType.FLOAT, trt.DataType.HALF)
            found.update(each.name for each in outputs if each.dtype in floats and not each.is_shape_tensor)
    return found


def _is_cast(trt: Any, layer: Any) -> bool:
    """Whether the parser of TensorRT 8 made a layer of a Cast."""
    return bool(layer.type == trt.LayerType.IDENTITY and layer.output_type_is_set(0))


def _layers(network: Any) -> Iterator[tuple[Any, list[Any], list[Any]]]:
    """Every layer with the tensors that go in and come out, in the order in which they run."""
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        given = (layer.get_input(number) for number in range(layer.num_inputs))
        inputs = [tensor for tensor in given if tensor is not None]  # optional ones may be missing
        yield layer, inputs, [layer.get_output(number) for number in range(layer.num_outputs)]
