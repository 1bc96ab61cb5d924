"""Which options go together: settled in a moment, with the nearest choice for a typo."""

import subprocess
import sys
from typing import Any

import pytest

from agvas_export.targets import TABLE, Targets, resolve
from agvas_runtime.errors import InputError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"llm": "int5"}, "--llm: found 'int5'; did you mean int8? it takes fp32, fp16, int8, int4, fp8"),
        ({"trt": "FP16 "}, "--trt: found 'FP16 '; did you mean fp16?"),
        ({"trt": "f16"}, "--trt: found 'f16'; did you mean fp16?"),
        ({"encoders": "int4"}, "--encoders: found 'int4'; did you mean int8?"),
        ({"defer": True}, "--defer leaves the building of engines to their device, and needs --trt"),
        ({"trt": "fp16", "encoders": "fp16"}, "can't use both --trt and --encoders"),
        ({"trt": "fp16", "llm": "fp32"}, "can't use --trt with --llm fp32"),
        ({"trt": "int8"}, "--trt int8 needs --calibration, a folder of images"),
        ({"trt": "fp8", "llm": "fp16"}, "--trt fp8 needs --calibration"),
        ({"trt": "fp16", "llm": "int8"}, "--llm int8 beside --trt needs --calibration"),
        ({"llm": "fp8"}, "--llm fp8 needs --calibration"),
        ({"llm": "int8", "calibration": True}, "--calibration: nothing to calibrate"),
        ({"opset": 16}, "--opset: found 16, expected 17 to 23"),
        ({"opset": 24}, "--opset: found 24, expected 17 to 23"),
        ({"trt": "fp8", "opset": 17, "calibration": True}, "--opset: found 17, expected 19 or more for 8 bits"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        resolve(**options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_what_goes_together() -> None:
    assert resolve() == Targets()
    assert resolve(encoders="fp16").precision("decoder") == "fp16"
    assert resolve(encoders="int8").precision("decoder") == "fp32"
    half = resolve(trt="fp16")
    assert half.lowest == "fp16"
    assert (half.opset, resolve().opset, resolve(trt="fp16", opset=23).opset) == (17, 23, 23)
    assert half.engine_graphs == ["semantic_encoder", "pixel_encoder", "spam", "llm", "decoder"]
    static = resolve(trt="int8", calibration=True)
    assert static.opset == 19
    assert [static.precision(name) for name in ("pixel_encoder", "spam", "llm", "decode", "decoder")] == [
        "int8-static",
        "fp16",
        "int8-static",
        "int8-static",
        "fp16",
    ]
    assert "llm" not in resolve(trt="fp16", llm="int4").engine_graphs  # its products are ONNX Runtime's own
    assert resolve(trt="fp8", llm="fp16", calibration=True).precision("llm") == "fp16"


def test_every_row_of_the_table_is_an_option_that_resolves() -> None:
    for option, encoders, llm, decoder, _, also in TABLE:
        words = option.split()
        chosen = {words[0].removeprefix("--"): words[1]} if len(words) == 2 else {}
        targets = resolve(**chosen, calibration="needs --calibration" in also)
        kinds = [targets.precision(name).removesuffix("-static") for name in ("pixel_encoder", "llm", "decoder")]
        assert kinds == [encoders, llm, decoder], option


def test_options_are_settled_without_torch() -> None:
    code = "import agvas_export.targets, agvas_export.cli, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
