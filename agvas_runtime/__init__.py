"""What runs on the line PC, torch-free: bundles, frames, prompts, engines, the segmenter, the server, its clients."""

import os

# After a product of matrices OpenBLAS's threads spin for some 30 ms on the cores that the next graph needs.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# ONNX Runtime 1.32 would report to its maker's servers, and keep a file of events in the user's cache.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
