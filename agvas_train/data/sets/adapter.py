"""What every adapter offers, a part of one, and how unreadable samples are passed over."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from agvas_runtime import console
from agvas_runtime.errors import InputError
from agvas_train.data.sets.sample import Sample

Taken = TypeVar("Taken")

JUDGED = 100
"""How many samples have to be met before a share of them is judged."""
TRIED = 1000
"""How many others are tried at most for a sample that is of no use."""


@dataclass(frozen=True)
class Counts:
    """What a set's lists and labels hold, without opening an image; None where the question makes no sense."""

    samples: int
    images: int
    masks: int = 0
    """Mask files, id maps, or outlined objects."""
    normal: int | None = None
    anomalous: int | None = None
    classes: int | None = None


class Adapter(Protocol):
    """A set as a sequence of samples. Opening one reads nothing; its lists are read once a process, at first use."""

    @property
    def name(self) -> str:
        """The set's name in the registry."""
        ...

    def __len__(self) -> int:
        """How many samples there are."""
        ...

    def read_lists(self) -> None:
        """Read every list now, so that processes that part later share them. Raises InputError."""
        ...

    def sample(self, index: int) -> Sample:
        """The sample of one index: the same whenever and wherever it is asked for.

        Raises:
            InputError: a file of it is missing or broken; the message names the file.
        """
        ...

    def describe(self) -> Counts:
        """What there is. Raises InputError when the set's lists cannot be read."""
        ...


@dataclass(frozen=True, eq=False)
class Subset:
    """Some samples of a set, in the order of their indexes; samples keep the index they have in the whole set."""

    whole: Adapter
    indexes: Sequence[int] | NDArray[np.int64]
    kind: str = ""
    """What all of them are, "normal" or "anomalous"; "" where they are of any kind."""

    @property
    def name(self) -> str:
        """The whole set's name."""
        return self.whole.name

    def __len__(self) -> int:
        return len(self.indexes)

    def read_lists(self) -> None:
        """The whole set's."""
        self.whole.read_lists()

    def sample(self, index: int) -> Sample:
        """The sample at one place of the part."""
        return self.whole.sample(int(self.indexes[index]))

    def describe(self) -> Counts:
        """As many samples as the part has; an image each."""
        return Counts(samples=len(self), images=len(self))


@runtime_checkable
class Halves(Protocol):
    """A set of normal and anomalous images."""

    def half(self, *, anomalous: bool) -> Subset:
        """The normal images, or the anomalous ones that a segmentation can be learnt from; either may be none."""
        ...


class Tolerant:
    """A set, or a part of one, whose unreadable samples are passed over: told of once each, and too many are an error.

    What stands in for one follows from the chance that the caller gives and from the files alone, so every process and
    every resumed run sees the same stream. What is told of and counted is what this process has met.

    Args:
        limit: how many unreadable samples are put up with. A count from 1 on, and 0; below 1 a share of the samples met
            so far, judged once `JUDGED` of them, or all, were met.
        report: told of each unreadable sample in one line.
    """

    def __init__(self, whole: Adapter, limit: float, report: Callable[[str], None] = console.note) -> None:
        self.whole = whole
        self.limit = limit
        self.report = report
        self.met = 0
        """How many samples this process has tried so far, each counted once."""
        self.broken: dict[int, str] = {}
        """What was wrong, by place, of the unreadable among them."""
        self._met = np.zeros(len(whole), np.bool_)
        self._kind = f", {whole.kind}" if isinstance(whole, Subset) and whole.kind else ""

    @property
    def name(self) -> str:
        """The set's name."""
        return self.whole.name

    def __len__(self) -> int:
        return len(self.whole)

    def take(self, place: int, use: Callable[[Sample], Taken | None], *, chance: str, purpose: str) -> Taken:
        """What the sample at a place is used for, its images decoded, or the first of its substitutes that is of use.

        Args:
            use: None for a sample that is sound but of no use here; an InputError counts as unreadable.
            chance: seeds the order in which others stand in.
            purpose: what the sample is for, for messages.

        Raises:
            InputError: more samples than the limit allows are unreadable, or none of those tried is of use.
        """
        unreadable = useless = 0
        for at in self._places(place, chance):
            try:
                sample = self.whole.sample(at)
                _ = sample.pixels  # decoded here, where a broken image can still be passed over
                used = use(sample)
            except InputError as error:
                unreadable += 1
                self._meet(at, str(error))
                continue
            self._meet(at)
            if used is not None:
                return used
            useless += 1
        if not useless:
            raise InputError(f"{self.name}{self._kind}: found no readable sample among {unreadable}, expected some")
        found = f"found nothing for {purpose} in {useless} sound samples ({unreadable} more cannot be read)"
        raise InputError(f"{self.name}{self._kind}: {found}, expected some")

    def _places(self, place: int, chance: str) -> Iterator[int]:
        yield place
        others = random.Random(chance).sample(range(len(self)), min(len(self), TRIED))
        yield from (other for other in others if other != place)

    def _meet(self, at: int, fault: str | None = None) -> None:
        """Count a sample. One that was met stays to be tried: what is met must not depend on what was met before."""
        self.met += not self._met[at]
        self._met[at] = True
        told = fault is None or at in self.broken
        if fault is not None:
            self.broken.setdefault(at, fault)
        self._judge()
        if not told:
            index = int(self.whole.indexes[at]) if isinstance(self.whole, Subset) else at
            self.report(f"{self.name} {index}{self._kind}: passed over: {fault}")

    def _judge(self) -> None:
        count = len(self.broken)
        if 0 < self.limit < 1:
            allowed = f"a share of {self.limit:g}"
            over = self.met >= min(JUDGED, len(self)) and count / self.met > self.limit
        else:
            allowed, over = f"{int(self.limit)}", count > self.limit
        if over:
            found = f"found {count} unreadable of {self.met} samples met"
            last = next(reversed(self.broken.values()))
            raise InputError(f"{self.name}{self._kind}: {found}, expected {allowed} at most; the last: {last}")
