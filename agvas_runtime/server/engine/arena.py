"""Frames in memory that the server and its engine processes share. It knows sizes and places, not what runs on a frame.

One anonymous file of the memory's (`memfd_create`): it has no name anywhere and is gone with the last process that has
it, however that ends. Who has which part of it is written down in the server alone; an engine process is told places.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
from bisect import insort
from collections.abc import Callable
from contextlib import ExitStack, suppress
from time import monotonic
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.frames import as_rgb, decoded, grey_of

BYTES_A_PIXEL = 8
"""At most: three of the frame, or one where it is grey, one of its mask, four of its map."""
KEPT_BYTES = 64 * 2**20
"""The start of the memory, where frames go first, stays the server's: giving it back and taking it again costs time."""

Memory = NDArray[np.uint8]


class ArenaFull(Exception):
    """There is no room for a frame; the message says what was asked, and what is free."""


class Token(NamedTuple):
    """Where a block lies; what another process needs to find it."""

    offset: int
    height: int
    width: int
    channels: int = 3
    """1 where the frame is grey."""

    @property
    def pixels(self) -> int:
        """How many."""
        return self.height * self.width

    @property
    def map_offset(self) -> int:
        """Of the map in the block: behind the frame and the mask, which every frame needs, at a multiple of 4."""
        return -(-self.pixels * (self.channels + 1) // 4) * 4

    @property
    def nbytes(self) -> int:
        """Of the frame, the mask and the map, in this order."""
        return self.map_offset + 4 * self.pixels


class Block:
    """A frame's pixels, with room for its mask and map. Whoever makes one, or retains it, releases it once."""

    def __init__(self, memory: Memory, token: Token, free: Callable[[Token], None]) -> None:
        self.token = token
        self._memory, self._free = memory, free
        self._users, self._lock = 1, threading.Lock()

    @property
    def height(self) -> int:
        """In pixels."""
        return self.token.height

    @property
    def width(self) -> int:
        """In pixels."""
        return self.token.width

    @property
    def probability(self) -> NDArray[np.float32]:
        """The map, float32 [H, W]. This and the other views are for as long as the block is not released."""
        return self._part(self.token.map_offset, 4).view(np.float32).reshape(self.height, self.width)

    @property
    def image(self) -> NDArray[np.uint8]:
        """The pixels, uint8 RGB [H, W, 3], see `as_rgb`."""
        stored = self.stored
        return as_rgb(stored) if self.token.channels == 1 else stored

    @property
    def stored(self) -> NDArray[np.uint8]:
        """The pixels as they lie, uint8 RGB [H, W, 3] or grey [H, W]."""
        size = (self.height, self.width) if self.token.channels == 1 else (self.height, self.width, 3)
        return self._part(0, self.token.channels).reshape(size)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The mask, bool [H, W]."""
        return self._part(self.token.channels * self.token.pixels, 1).view(np.bool_).reshape(self.height, self.width)

    def retain(self) -> None:
        """One more user."""
        with self._lock:
            self._must_have_users()
            self._users += 1

    def release(self) -> None:
        """One user less; the last one frees the memory."""
        with self._lock:
            self._must_have_users()
            self._users -= 1
            last = self._users == 0
        if last:
            self._free(self.token)

    def _part(self, first: int, count: int) -> Memory:
        """So many bytes a pixel, from the block's first-th byte on."""
        self._must_have_users()
        start = self.token.offset + first
        return self._memory[start : start + count * self.token.pixels]

    def _must_have_users(self) -> None:
        if not self._users:
            raise RuntimeError("the block is free already")


class Arena:
    """Memory for frames, taken from the system where it is used. Threads may use it together.

    Args:
        limit_bytes: most that all frames may take together, with their masks and maps.

    Raises:
        EngineError: the system has no such memory.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.size = max(limit_bytes - limit_bytes % mmap.PAGESIZE, mmap.PAGESIZE)
        with ExitStack() as undo:
            try:
                self.fd = _anonymous_file()
                undo.callback(os.close, self.fd)
                _fix_size(self.fd, self.size)
                self._map, self._memory = _mapped(self.fd, self.size)
            except OSError as error:
                reason = (error.strerror or str(error)).lower()
                raise EngineError(f"shared memory of {_mib(self.size)} (max_memory_mb): {reason}") from None
            undo.pop_all()
        self._gaps = [(0, self.size)]  # (start, bytes) of what is free, by start; no two touch
        self._changed = threading.Condition()

    @classmethod
    def attach(cls, fd: int, size: int) -> Arena:
        """The same memory, in a process that was handed the file; there it can only be looked `at`."""
        arena = cls.__new__(cls)
        arena.size, arena.fd = size, fd
        arena._map, arena._memory = _mapped(fd, size)
        return arena

    def close(self) -> None:
        """Let the memory go; what views there are keep theirs until they are gone."""
        os.close(self.fd)
        del self._memory
        with suppress(BufferError):
            self._map.close()

    @property
    def free_bytes(self) -> int:
        """Of the limit."""
        with self._changed:
            return sum(size for _, size in self._gaps)

    def place(self, image: NDArray[np.uint8], *, wait_s: float = 0.0) -> Block:
        """Copy a frame, uint8 RGB [H, W, 3] or grey [H, W], to the lowest place with room for it.

        Raises:
            InputError: it is no such frame, or larger than the limit.
            ArenaFull: there was no room for it in this time.
        """
        frame = decoded(image)
        height, width, _ = frame.shape
        grey = grey_of(frame)
        wanted = Token(0, height, width, 3 if grey is None else 1)
        block = Block(self._memory, self._room(wanted, monotonic() + wait_s), self._free)
        block.stored[:] = frame if grey is None else grey
        return block

    def at(self, token: Token) -> Block:
        """The block at a place that another process names; not its owner.

        Raises ValueError for what does not lie in the memory.
        """
        numbers = all(isinstance(number, int) for number in token) and len(token) == 4 and token.channels in (1, 3)
        if not numbers or token.offset % mmap.PAGESIZE or min(token.height, token.width, token.offset + 1) < 1:
            raise ValueError(f"found {token}, expected a block of the arena's")
        if token.offset + token.nbytes > self.size:
            raise ValueError(f"found {token}, which ends behind the arena's {self.size} bytes")
        return Block(self._memory, token, lambda _: None)

    def trim(self) -> None:
        """Give the pages of all free memory back to the system."""
        with self._changed:
            for start, size in self._gaps:
                self._give_back(start, size)

    def _room(self, wanted: Token, until: float) -> Token:
        """Take the lowest gap that is large enough, as soon as there is one; where it begins is in the token."""
        size, pixels = _whole_pages(wanted.nbytes), f"{wanted.width} x {wanted.height} pixels"
        if size > self.size:
            found = f"found {pixels}, which take {_mib(size)} with mask and map"
            raise InputError(f"frame: {found}, expected at most the {_mib(self.size)} of all frames together")
        with self._changed:
            while (start := self._take(size)) is None:
                if not self._changed.wait(max(until - monotonic(), 0)):
                    gaps = [gap for _, gap in self._gaps] or [0]
                    free = f"{_mib(sum(gaps))} of {_mib(self.size)} are free, {_mib(max(gaps))} in one piece"
                    raise ArenaFull(f"no room for a frame of {pixels}, {_mib(size)}: {free}")
        return wanted._replace(offset=start)

    def _take(self, size: int) -> int | None:
        for place, (start, gap) in enumerate(self._gaps):
            if gap >= size:
                self._gaps[place : place + 1] = [(start + size, gap - size)] if gap > size else []
                return start
        return None

    def _free(self, token: Token) -> None:
        start, size = token.offset, _whole_pages(token.nbytes)
        kept = max(KEPT_BYTES - start, 0)
        if size > kept:
            self._give_back(start + kept, size - kept)
        with self._changed:
            insort(self._gaps, (start, size))
            self._gaps = _joined(self._gaps)
            self._changed.notify_all()

    def _give_back(self, start: int, size: int) -> None:
        self._map.madvise(mmap.MADV_REMOVE, start, size)


def _joined(gaps: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Gaps by their start, those that touch as one."""
    joined: list[tuple[int, int]] = []
    for start, size in gaps:
        if joined and sum(joined[-1]) == start:
            joined[-1] = joined[-1][0], joined[-1][1] + size
        else:
            joined.append((start, size))
    return joined


def _anonymous_file() -> int:
    """A file without a name."""
    if not hasattr(os, "memfd_create"):
        raise EngineError("shared memory: this Python has no os.memfd_create, which needs Linux and glibc 2.27")
    return os.memfd_create("agvas-frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def _fix_size(fd: int, size: int) -> None:
    """Give a file its size, which nobody can change then: who could would end every process that reads it."""
    os.truncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)


def _mapped(fd: int, size: int) -> tuple[mmap.mmap, Memory]:
    shared = mmap.mmap(fd, size, mmap.MAP_SHARED)
    return shared, np.frombuffer(shared, np.uint8)


def _whole_pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
