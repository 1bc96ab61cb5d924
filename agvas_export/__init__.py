"""From a merged checkpoint to a bundle: graphs, quantisation, and the proof that both compute the same."""

import agvas_runtime as agvas_runtime  # first of all: it keeps ONNX Runtime from reporting
