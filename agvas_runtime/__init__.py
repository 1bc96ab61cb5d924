"""What runs on the line PC, torch-free: bundles, frames, prompts, engines, the segmenter, the server, its clients."""

__version__ = "0.1.0"
