"""What every adapter offers, a part of one, and how unreadable samples are passed over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

from agvas_runtime import console
from agvas_runtime.errors import InputError
from agvas_train.data.sets.sample import Sample

Taken = TypeVar("Taken")


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
    """A set as a sequence of samples. Opening one reads nothing; its index is read once a process, at first use."""

    @property
    def name(self) -> str:
        """The set's name in the registry."""
        ...

    def __len__(self) -> int:
        """How many samples there are."""
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


@dataclass(frozen=True)
class Subset:
    """Some samples of a set, in the order of their indexes; samples keep the index they have in the whole set."""

    whole: Adapter
    indexes: Sequence[int]

    @property
    def name(self) -> str:
        """The whole set's name."""
        return self.whole.name

    def __len__(self) -> int:
        return len(self.indexes)

    def sample(self, index: int) -> Sample:
        """The sample at one place of the part."""
        return self.whole.sample(self.indexes[index])

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
    """A set whose unreadable samples are passed over: each is told of once, and too many are an error.

    An unreadable sample's place is taken by the next readable one behind it (the first follows the last). Which that is
    depends on the files alone, so every process and every resumed run sees the same stream.

    Args:
        limit: how many unreadable samples are put up with: a share of the set below 1, or a count from 1 on.
        report: told of each unreadable sample in one line.
    """

    def __init__(self, whole: Adapter, limit: float, report: Callable[[str], None] = console.note) -> None:
        self.whole = whole
        self.most = int(limit if limit >= 1 else limit * len(whole))
        self.report = report
        self.broken: dict[int, str] = {}
        """What was wrong, by index, of those met so far in this process."""

    @property
    def name(self) -> str:
        """The set's name."""
        return self.whole.name

    def __len__(self) -> int:
        return len(self.whole)

    def sample(self, index: int) -> Sample:
        """The readable sample at this index or behind it, its images decoded. Raises as `take`."""
        return self.take(index, lambda sample: sample)

    def take(self, index: int, use: Callable[[Sample], Taken | None]) -> Taken:
        """What the first readable sample at this index or behind it is used for, its images decoded.

        Args:
            use: None for a sample that is sound but of no use here; an InputError counts as unreadable.

        Raises:
            InputError: more samples than the limit allows are unreadable, or none is of use.
        """
        for place in range(index, index + len(self)):
            at = place % len(self)
            try:
                sample = self.whole.sample(at)
                _ = sample.pixels  # decoded here, where a broken image can still be passed over
                used = use(sample)
            except InputError as error:
                self._pass_over(at, str(error))
                continue
            if used is not None:
                return used
        raise InputError(f"{self.name}: found no readable sample among {len(self)}")

    def describe(self) -> Counts:
        """What there is, the unreadable included."""
        return self.whole.describe()

    def _pass_over(self, index: int, fault: str) -> None:
        if index in self.broken:  # tried again all the same: what is met must not depend on what was met before
            return
        self.broken[index] = fault
        if len(self.broken) > self.most:
            found = f"found {len(self.broken)} unreadable samples of {len(self)}"
            raise InputError(f"{self.name}: {found}, expected {self.most} at most; the last: {fault}")
        self.report(f"{self.name} {index}: passed over: {fault}")
