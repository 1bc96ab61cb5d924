"""Conversations about images as LLaVA writes them (also WebAD and BMAD), and mixtures of such files."""

from __future__ import annotations

import math
import random
import re
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path

from agvas_runtime.errors import InputError
from agvas_train.data.sets.adapter import Counts, Subset
from agvas_train.data.sets.json_ranges import records
from agvas_train.data.sets.reading import below, naming, read_yaml
from agvas_train.data.sets.sample import Message, Sample, Source

IMAGE = "<image>"
_STRATEGY = re.compile(r"all|(?P<how>first|end|random):(?P<amount>\d+(?P<percent>%)?)")


@dataclass(frozen=True)
class RecordsOfImages:
    """A JSON list or JSON Lines of records about images, and the folder that their paths begin in."""

    name: str
    file: Path
    images: Path

    def __len__(self) -> int:
        return len(records(self.file))

    def read_lists(self) -> None:
        """The places of the records."""
        records(self.file)


@dataclass(frozen=True)
class Conversations(RecordsOfImages):
    """Records {image, conversations: [{from: human | gpt, value}]}."""

    def sample(self, index: int) -> Sample:
        """One conversation and its images, of which there may be none."""
        source = f"{self.file}, record {index}"
        with naming(source):
            record = records(self.file)[index]
            named = record.get("image") or []
            images = tuple(below(self.images, name, source) for name in ([named] if isinstance(named, str) else named))
            messages = [Message(each["from"], _image_first(each["value"])) for each in record["conversations"]]
        if messages and messages[0].role != "human":
            del messages[0]
        roles = [message.role for message in messages]
        if not roles or roles != ["human", "gpt"] * (len(roles) // 2):
            turns = ", ".join(map(str, roles)) or "nobody"
            raise InputError(f"{source}: found turns of {turns}, expected human and gpt in turn")
        return Sample(images, Source(self.name, self.file, index), conversation=tuple(messages))

    def describe(self) -> Counts:
        """As many conversations as records; an image each."""
        return Counts(len(self), len(self))


def _image_first(text: str) -> str:
    """The text with every "<image>" moved to its beginning, each on a line of its own."""
    return f"{IMAGE}\n" * text.count(IMAGE) + text.replace(IMAGE, "").strip()


def chosen(strategy: str, count: int, seed: str) -> Sequence[int]:
    """Which of `count` records a sampling strategy takes: all, first:N, end:N or random:N; N may be p%, rounded up.

    Args:
        seed: what the random choice depends on, besides N.

    Raises:
        ValueError: no such strategy.
    """
    found = _STRATEGY.fullmatch(strategy)
    if found is None:
        raise ValueError(f"found the sampling strategy {strategy!r}, expected all, first:N, end:N or random:N")
    if found["how"] is None:
        return range(count)
    number = int(found["amount"].rstrip("%"))
    number = min(count, math.ceil(count * number / 100) if found["percent"] else number)
    if found["how"] == "random":
        return array("q", sorted(random.Random(seed).sample(range(count), number)))
    return range(number) if found["how"] == "first" else range(count - number, count)


@dataclass(frozen=True)
class ConversationMix:
    """Conversations of several files as a YAML file lists them: datasets: [{json_path, sampling_strategy}].

    The files' paths begin at the YAML file's folder.
    """

    name: str
    file: Path
    images: Path

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def read_lists(self) -> None:
        """The mixture and the places of its files' records."""
        _mixed(self)

    def sample(self, index: int) -> Sample:
        """A conversation; the files follow one another as listed."""
        parts = self._parts
        ends = list(accumulate(len(part) for part in parts))
        which = bisect_right(ends, index)
        return parts[which].sample(index - (ends[which - 1] if which else 0))

    def describe(self) -> Counts:
        """As many conversations as the strategies take; an image each."""
        return Counts(len(self), len(self))

    @property
    def _parts(self) -> tuple[Subset, ...]:
        return _mixed(self)


@cache
def _mixed(mix: ConversationMix) -> tuple[Subset, ...]:
    parts = []
    with naming(mix.file):
        for entry in read_yaml(mix.file, "a list of conversations")["datasets"]:
            whole = Conversations(mix.name, mix.file.parent / entry["json_path"], mix.images)
            strategy = str(entry.get("sampling_strategy", "all"))
            parts.append(Subset(whole, chosen(strategy, len(whole), entry["json_path"])))
    return tuple(parts)
