"""Engines in processes of their own: shared memory for frames, the process itself, a pool that keeps them alive."""
