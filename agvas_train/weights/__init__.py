"""Weights on disk: reading what users hold, and writing checkpoints, tensor by tensor in bounded memory."""
