"""The segmenter's shell without the segmenter: an RGB frame in, an empty mask of its size out."""

from typing import Any

import numpy as np
import triton_python_backend_utils as triton


class TritonPythonModel:
    """What the backend looks for, by this name."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """FRAME, uint8 [H, W, 3] -> MASK, packed bits uint8 [H, ceil(W / 8)], and ENGINE_MS, zero."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        height, width, _ = np.from_dlpack(triton.get_input_tensor_by_name(request, "FRAME")).shape
        tensors = [triton.Tensor.from_dlpack("ENGINE_MS", np.zeros(1))]
        if "MASK" in request.requested_output_names():
            tensors.append(triton.Tensor.from_dlpack("MASK", np.zeros((height, -(-width // 8)), np.uint8)))
        return triton.InferenceResponse(tensors)
