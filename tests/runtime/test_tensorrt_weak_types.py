"""What is bound to fp32 in a network as the parser of TensorRT 8.6 makes it: every float behind a layer is FLOAT."""

from types import SimpleNamespace

import pytest

from agvas_runtime.engines.tensorrt_weak_types import set_weak_types

TRT = SimpleNamespace(
    LayerType=SimpleNamespace(
        **{kind: kind for kind in ("CONSTANT", "SHAPE", "CAST", "QUANTIZE", "DEQUANTIZE", "SHUFFLE", "IDENTITY")}
    ),
    DataType=SimpleNamespace(FLOAT="float", HALF="half", INT32="int32"),
    BuilderFlag=SimpleNamespace(FP16="fp16", INT8="int8", OBEY_PRECISION_CONSTRAINTS="obey"),
)


class Layer:
    """A layer with one output of its own name; `cast_to` makes it what the parser makes of a Cast."""

    def __init__(self, name, kind, *inputs, dtype="float", cast_to=None, shape=False) -> None:
        self.name, self.type, self.inputs, self.cast_to = name, kind, inputs, cast_to
        self.output = SimpleNamespace(name=name, dtype=dtype, is_shape_tensor=shape)
        self.num_inputs, self.num_outputs, self.precision, self.bound = len(inputs), 1, None, {}

    def get_input(self, number):
        name = self.inputs[number]
        return name and SimpleNamespace(name=name)

    def get_output(self, number):
        return self.output

    def output_type_is_set(self, number):
        return self.cast_to is not None

    def get_output_type(self, number):
        return self.cast_to or self.output.dtype

    def set_output_type(self, number, dtype):
        self.bound[number] = dtype


def bound(*layers, precision="fp16", **inputs):
    """Names of the layers that are bound, and the flags."""
    given = [SimpleNamespace(name=name, dtype=dtype) for name, dtype in inputs.items()]
    network = SimpleNamespace(
        num_layers=len(layers), get_layer=layers.__getitem__, num_inputs=len(given), get_input=given.__getitem__
    )
    flags = []
    set_weak_types(TRT, SimpleNamespace(set_flag=flags.append), network, precision)
    assert all((layer.precision == "float") == (layer.bound == {0: "float"}) for layer in layers)
    return [layer.name for layer in layers if layer.bound], flags


def test_half_stays_half_between_casts_and_what_is_fp32_is_bound():
    names, flags = bound(
        Layer("norm of the input", "NORMALIZATION", "x"),
        Layer("x in half", "IDENTITY", "norm of the input", cast_to="half"),
        Layer("weight", "CONSTANT", dtype="half"),
        Layer("product", "MATRIX_MULTIPLY", "x in half", "weight"),
        Layer("moved", "SHUFFLE", "product", None),
        Layer("product in fp32", "IDENTITY", "moved", cast_to="float"),
        Layer("softmax", "SOFTMAX", "product in fp32"),
        Layer("softmax in half", "IDENTITY", "softmax", cast_to="half"),
        Layer("sum", "ELEMENTWISE", "moved", "softmax in half"),
        Layer("expanded weight", "SLICE", "weight"),
        Layer("y", "IDENTITY", "sum", cast_to="float"),
    )
    assert names == ["norm of the input", "softmax"]
    assert flags == ["fp16", "obey"]


@pytest.mark.parametrize(
    "layer",
    [
        Layer("scale", "CONSTANT"),
        Layer("shape", "SHAPE", "x", dtype="int32"),
        Layer("angle of a shape", "ELEMENTWISE", "x", shape=True),
        Layer("place", "ELEMENTWISE", "x", dtype="int32"),
    ],
)
def test_constants_shapes_and_integers_are_not_bound(layer):
    assert bound(layer)[0] == []


def test_shapes_of_what_is_half_do_not_make_half_of_what_takes_them():
    names, _ = bound(
        Layer("half", "IDENTITY", "x", cast_to="half"),
        Layer("shape", "SHAPE", "half", dtype="int32", shape=True),
        Layer("single", "IDENTITY", "half", cast_to="float"),
        Layer("moved", "SHUFFLE", "single", "shape"),
        Layer("softmax", "SOFTMAX", "moved"),
    )
    assert names == ["moved", "softmax"]


def test_what_comes_in_as_half_is_half():
    assert bound(Layer("sum", "ELEMENTWISE", "keys", "x"), keys="half", x="half")[0] == []
    assert bound(Layer("sum", "ELEMENTWISE", "x", "y"), x="float", y="float")[0] == ["sum"]


def test_an_identity_without_a_type_of_its_own_is_no_cast():
    assert bound(Layer("same", "IDENTITY", "x"))[0] == ["same"]


def test_what_takes_its_values_from_a_dequantiser_is_free_to_run_in_int8():
    names, flags = bound(
        Layer("codes", "QUANTIZE", "x", dtype="int8"),
        Layer("values", "DEQUANTIZE", "codes"),
        Layer("moved", "SHUFFLE", "values"),
        Layer("product", "MATRIX_MULTIPLY", "moved"),
        Layer("softmax", "SOFTMAX", "product"),
        precision="int8",
    )
    assert names == ["softmax"]
    assert flags == ["fp16", "obey", "int8"]
