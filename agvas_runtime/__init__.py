"""What runs on the line PC, torch-free: bundles, frames, prompts, engines, the segmenter, the server, its clients."""

import os

# After a product of matrices OpenBLAS's threads spin for some 30 ms on the cores that the next graph needs.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

__version__ = "0.1.0"
