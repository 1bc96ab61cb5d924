"""agvas's own segmenter as a model of Triton's Python backend: an RGB frame in, its mask and the engine's time out.

Triton runs it in a process of its own; frames and masks pass through shared memory.
"""

import os
from typing import Any

import numpy as np
import triton_python_backend_utils as triton

from agvas_runtime.segmenter import Segmenter


class TritonPythonModel:
    """What the backend looks for, by this name."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the embedded bundle as `agvas-runtime serve` does, with AGVAS_THREADS threads, and warm it up."""
        threads = int(os.environ["AGVAS_THREADS"])
        self._segmenter = Segmenter.open(threads=threads)
        self._segmenter.warm()

    def execute(self, requests: list[Any]) -> list[Any]:
        """FRAME, uint8 [H, W, 3] -> MASK, packed bits uint8 [H, ceil(W / 8)], and ENGINE_MS, decoding left out."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        result = self._segmenter.segment(np.from_dlpack(triton.get_input_tensor_by_name(request, "FRAME")))
        engine_ms = result.timings_ms["total"] - result.timings_ms["decode"]
        tensors = [triton.Tensor.from_dlpack("ENGINE_MS", np.array([engine_ms]))]
        if "MASK" in request.requested_output_names():
            tensors.append(triton.Tensor.from_dlpack("MASK", np.packbits(result.mask, axis=1)))
        return triton.InferenceResponse(tensors)
