"""A bundle on trial: where it lies, and its engines from their start until they serve or are gone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from threading import Lock
from time import monotonic
from types import TracebackType

import grpc

from agvas_runtime.errors import Cancelled, EngineError, InputError, NotFound, NotNow
from agvas_runtime.server.engine.process import EngineDied, EngineProcess
from agvas_runtime.server.engine.task import EngineFacts

LOAD_S = 900.0
"""Engines that are not ready by then are refused; native ones may have to be built first."""


def bundle_folder(root: Path | None, name: str) -> Path:
    """The folder of a bundle by its name below the root, links followed.

    Raises:
        NotNow: the server has no root for bundles.
        InputError: the name could leave the root, or does.
        NotFound: there is no such folder.
    """
    if root is None:
        raise NotNow("the server was started without a folder of bundles to swap to (bundle_root)")
    shown, pure = ascii(name[:64]), PurePosixPath(name)
    plain = name == pure.as_posix() and not pure.is_absolute() and ".." not in pure.parts and pure.parts
    if not plain or not name.isprintable() or "\\" in name or len(name) > 255:
        raise InputError(f"bundle: found {shown}, expected the plain name of a folder below the bundle root")
    try:
        folder, inside = (root / name).resolve(), root.resolve()
        there = folder.is_dir()
    except (OSError, RuntimeError):  # a name that the system cannot have, a circle of links
        raise NotFound(f"bundle: found {shown}, expected a folder below the bundle root") from None
    if inside not in folder.parents:
        raise InputError(f"bundle: {shown} is a link that leaves the bundle root")
    if not there:
        raise NotFound(f"bundle: found no {shown} below the bundle root")
    return folder


class Trial:
    """Engines of a bundle that does not serve yet. They are gone at the end of the block unless they took over.

    If the caller goes away they are killed at once, whatever they are at.
    """

    def __init__(self, engines: Sequence[EngineProcess], context: grpc.ServicerContext) -> None:
        self.engines = list(engines)
        self._context = context
        self._ended: Exception | None = None
        """Why nobody wants it any more."""
        self._taken = False
        self._lock = Lock()

    def __enter__(self) -> Trial:
        if not self._context.add_callback(self.abandon):
            self.abandon()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._taken:
            for engine in self.engines:
                engine.kill()
            for engine in self.engines:
                engine.close()

    def check(self) -> None:
        """Raise Cancelled if the caller is gone, or what else it was abandoned for."""
        if self._ended is not None:
            raise self._ended

    def load(self, bundle: str, folder: Path) -> EngineFacts:
        """Wait until all are ready; what they say of the bundle's folder calls it by its name.

        Raises:
            InputError: the bundle is refused.
            EngineError: an engine cannot be made of it.
            Cancelled: the caller is gone; or what else it was abandoned for.
        """
        until = monotonic() + LOAD_S
        try:
            facts = [engine.wait_ready(max(until - monotonic(), 0.0)) for engine in self.engines]
        except InputError as error:
            raise InputError(f"bundle: {str(error).replace(str(folder), bundle)}") from None
        except EngineDied as error:
            raise EngineError(f"its engine died before it was ready: {error}") from None
        except TimeoutError:
            raise EngineError(f"its engine is not ready after {LOAD_S:g} s") from None
        finally:
            self.check()
        return facts[0]

    def settle(self, take_over: Callable[[], None]) -> None:
        """Have the engines take over, unless it was abandoned before: then it raises as `check` does."""
        with self._lock:
            self.check()
            take_over()
            self._taken = True

    def abandon(self, why: Exception | None = None) -> None:
        """End it now; for its caller's sake where nothing else is given. Engines that have taken over stay."""
        with self._lock:
            if not self._taken:
                self._ended = self._ended or why or Cancelled("the caller went away; everything is as it was")
                for engine in self.engines:
                    engine.kill()
