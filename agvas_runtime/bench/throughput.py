"""Throughput by batch size: frames that are segmented together, contenders in turns."""

import time
from collections.abc import Callable, Sequence
from math import ceil
from typing import Any, NamedTuple

from agvas_runtime import console
from agvas_runtime.bench.frames import Frame
from agvas_runtime.bench.latency import Track
from agvas_runtime.errors import InputError


class Batches(NamedTuple):
    """A contender that segments several frames together."""

    place: int
    """Among the tracks."""
    segment: Callable[[Sequence[bytes]], object]


def measure_throughput(
    tracks: Sequence[Track], frames: Sequence[Frame], count: int, sizes: Sequence[int]
) -> list[list[dict[str, float]]]:
    """Throughput of every contender at every size that it can do.

    Args:
        tracks: they have run their race: size 1 is what they did there.
        frames: segmented in turn, as in the race.
        count: each contender segments at least so many at each size.
        sizes: of batches. Engines in PyTorch know single frames only; native ones may be built for less.

    Returns for each contender and size: batch, frames_per_s, ms_per_frame (means). Raises InputError, EngineError.
    """
    found: list[list[dict[str, float]]] = [[] for _ in tracks]
    for size in sizes:
        if size == 1:
            taken = {place: track.ms_per_frame for place, track in enumerate(tracks)}
        else:
            taken = _in_batches(tracks, frames, count, size)
        for place, ms in taken.items():
            found[place].append({"batch": size, "frames_per_s": 1e3 / ms, "ms_per_frame": ms})
    return found


def _in_batches(tracks: Sequence[Track], frames: Sequence[Frame], count: int, size: int) -> dict[int, float]:
    """Milliseconds a frame of those contenders that take so many at once, by their place."""
    able = [each for each in map(_batches, range(len(tracks)), tracks) if each and _takes(each, frames, size)]
    spent = dict.fromkeys((each.place for each in able), 0.0)
    rounds = ceil(count / size) if able else 0
    for turn in console.progress(range(rounds), f"batches of {size}", rounds):
        some = _some(frames, turn * size, size)
        for number in range(len(able)):
            each = able[(turn + number) % len(able)]
            begin = time.perf_counter()
            each.segment(some)
            spent[each.place] += (time.perf_counter() - begin) * 1e3
    return {place: ms / (rounds * size) for place, ms in spent.items()}


def _batches(place: int, track: Track) -> Batches | None:
    segment: Any = getattr(track.segmenter, "segment_batch", None)
    return None if segment is None else Batches(place, lambda images: segment(images, track.request))


def _takes(contender: Batches, frames: Sequence[Frame], size: int) -> bool:
    """Whether the engines were built for as many frames; the first batch, which is not counted, shows it."""
    try:
        contender.segment(_some(frames, 0, size))
    except InputError:  # every frame and the request were answered alone before
        return False
    return True


def _some(frames: Sequence[Frame], first: int, size: int) -> list[bytes]:
    return [frames[(first + number) % len(frames)].data for number in range(size)]
