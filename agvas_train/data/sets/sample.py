"""One sample of any set: the images by path, and everything that a turn about them can be made of. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.errors import InputError
from agvas_runtime.frames import read_image
from agvas_train.data.synth.notes import Caption

Mask = NDArray[np.bool_]
Size = tuple[int, int]
"""Height and width, pixels."""

SEG_ALONE = ("SEG",)
"""What general segmentation supervises."""
ALL_ANCHORS = ("NOR", "ANO", "SEG")
"""What the two anomaly groups supervise; no other set has a say in [NOR] and [ANO] (appendix, section B.2)."""
PADDING = 127
"""Grey around an image that is made square: the semantic encoder's mean."""


class Shape(Protocol):
    """Where something is in an image. Few of an image's regions are ever drawn: masks may be made when asked for."""

    @property
    def size(self) -> Size:
        """Height and width of the image that it belongs to."""
        ...

    def mask(self) -> Mask:
        """The pixels that belong to it, bool [H, W]."""
        ...

    def ignored(self) -> Mask | None:
        """The pixels of which nothing is known, bool [H, W]; None where there are none."""
        ...


@dataclass(frozen=True, eq=False)
class Region:
    """Something that can be asked for in an image, and where it is."""

    phrases: tuple[str, ...]
    """Names of it, or sentences that mean it; any one of them will do."""
    shape: Shape
    is_sentence: bool = False
    """Whether the phrases are whole questions or demands, and not names to put into one."""
    explanation: str = ""
    """Why this region is the answer, where the set says so."""

    @property
    def mask(self) -> Mask:
        """bool [H, W] at the image's size; not to be written to."""
        return self.shape.mask()

    @property
    def ignore(self) -> Mask | None:
        """bool [H, W] of pixels that count neither way; None where all count."""
        return self.shape.ignored()


@dataclass(frozen=True, eq=False)
class Anomaly:
    """What an anomaly set says of an image."""

    present: bool
    mask: Mask | None
    """bool [H, W]; None for a normal image, and where the set has no pixel labels."""
    category: str
    """What is inspected: "bottle"."""
    kind: str
    """The defect's name, "good" for a normal image."""


@dataclass(frozen=True)
class Message:
    """One side's part of a conversation; each "<image>" stands at its beginning, on a line of its own."""

    role: Literal["human", "gpt"]
    text: str


@dataclass(frozen=True)
class Source:
    """Where a sample comes from."""

    set: str
    file: Path
    """The file that lists or labels it."""
    index: int

    def __str__(self) -> str:
        return f"{self.set} {self.index} ({self.file})"


@dataclass(frozen=True, eq=False)
class Sample:
    """One image, or several that belong to one conversation, with all that is known of it."""

    images: tuple[Path, ...]
    source: Source
    anchors: tuple[str, ...] = ()
    """The anchors whose maps this sample's masks supervise; none for normal images, which teach by text alone."""
    regions: tuple[Region, ...] = ()
    anomaly: Anomaly | None = None
    caption: Caption | None = None
    """The fields of an Anomaly-Instruct record."""
    conversation: tuple[Message, ...] = ()

    @cached_property
    def pixels(self) -> tuple[NDArray[np.uint8], ...]:
        """Each image as uint8 RGB [H, W, 3], read at first use; several are padded to squares.

        Raises InputError naming the file that cannot be read, or whose size is not its labels'.
        """
        decoded = tuple(read_image(path) for path in self.images)
        if len(decoded) > 1:
            return tuple(map(_square, decoded))
        sizes = {region.shape.size for region in self.regions}
        if self.anomaly is not None and self.anomaly.mask is not None:
            sizes.add((self.anomaly.mask.shape[0], self.anomaly.mask.shape[1]))
        for height, width in sizes:
            if decoded[0].shape[:2] != (height, width):
                found = f"{decoded[0].shape[1]} x {decoded[0].shape[0]} pixels"
                raise InputError(f"{self.images[0]}: found {found}, expected {width} x {height} as its labels have")
        return decoded


def _square(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image in the middle of a grey square of its longer side."""
    height, width = image.shape[:2]
    side = max(height, width)
    square = np.full((side, side, 3), PADDING, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = image
    return square
