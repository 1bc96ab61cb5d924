"""8-bit graphs for ONNX Runtime on CPUs: int8 weights per channel, activations quantised as they come."""

from __future__ import annotations

import logging
from pathlib import Path

from onnxruntime.quantization import QuantType, quantize_dynamic

PARTS = {"encoders": ("semantic_encoder", "pixel_encoder", "spam"), "llm": ("llm",)}
"""What `--encoders` and `--llm` stand for. The decoder writes the map itself and stays in full precision."""


def quantize_int8(path: Path) -> None:
    """Replace an ONNX file by its 8-bit form: every product with a constant matrix, nothing else."""
    quantized = path.with_suffix(".int8.onnx")
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it recommends a preparation that our exporter has done
    try:
        quantize_dynamic(
            path,
            quantized,
            per_channel=True,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Gemm"],
            extra_options={"MatMulConstBOnly": True},
        )
    finally:
        logging.disable(level)
    quantized.chmod(0o644)
    quantized.replace(path)
