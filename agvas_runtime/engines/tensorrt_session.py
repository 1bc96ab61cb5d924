"""What TensorRT engines that run in turn share. They work on one stream, so one context memory will do."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from agvas_runtime.engines import release
from agvas_runtime.engines.device import Buffer, check, log, start

if TYPE_CHECKING:
    from agvas_runtime.engines.tensorrt_run import TrtEngine


class Session:
    """What engines that run in turn share: TensorRT's runtime, a stream, context memory. Open it after `probe()`."""

    def __init__(self) -> None:
        """Raises EngineError."""
        self.trt = import_module("tensorrt")
        self.cuda = import_module("cuda.bindings.runtime")
        log().take()
        self.runtime = start("Runtime")
        flags = self.cuda.cudaStreamNonBlocking
        self.stream = check(self.cuda.cudaStreamCreateWithFlags(flags), "CUDA stream")
        self.scratch = Buffer(self.cuda, "context memory")
        self.engines: list[TrtEngine] = []

    def synchronize(self, what: str = "CUDA stream") -> None:
        """Wait for everything that was enqueued. Raises EngineError beginning with `what` if any of it failed."""
        check(self.cuda.cudaStreamSynchronize(self.stream), what)

    def add(self, engine: TrtEngine, scratch_bytes: int) -> None:
        """Take an engine in; where it needs more context memory than all before, those prepare their runs anew."""
        if scratch_bytes > self.scratch.size:
            self.synchronize()
            for other in self.engines:
                other.forget_runs()
        self.scratch.reserve(max(scratch_bytes, self.scratch.size))
        self.engines.append(engine)

    def remove(self, engine: TrtEngine) -> None:
        """Let an engine go; with the last one everything is released."""
        self.engines.remove(engine)
        if not self.engines:
            self.close()

    def close(self) -> None:
        """Close every engine and release the rest; a second call does nothing.

        Raises the first EngineError after everything was tried.
        """
        release(*(engine.close for engine in reversed(self.engines)), self._close_own)

    def _close_own(self) -> None:
        if self.runtime is not None:
            self.runtime = None
            release(
                self.scratch.free, lambda: check(self.cuda.cudaStreamDestroy(self.stream), "closing the CUDA stream")
            )
