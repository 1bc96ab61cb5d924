"""What a synthetic sample carries: the image, its mask, and notes that say truthfully what was painted."""

from dataclasses import dataclass
from enum import Enum

import numpy as np


class Families(str, Enum):
    """Which surfaces and which kinds of defects are drawn."""

    TRAINING = "training"
    """All but those that are held out."""
    HELD_OUT = "held-out"
    """Surfaces that training never draws, with defects that it never draws: what a model makes of the unknown."""
    ALL = "all"


@dataclass(frozen=True)
class SynthConfig:
    """Everything about the stream that can be tuned."""

    families: Families = Families.TRAINING
    normal_share: float = 0.45
    """Share of samples that are to have no defect, in [0, 1]; a few more have none that could be seen."""
    min_side: int = 96
    """Smallest image side, pixels."""
    max_side: int = 416
    """Largest image side, pixels."""
    usual_sides: tuple[int, int] = (208, 352)
    """Most images have their longer side in this range, pixels."""
    square_share: float = 0.55
    """Share of square images."""
    grey_share: float = 0.3
    """Share of images turned to greyscale, on top of those whose surface is grey anyway."""
    zoom_share: float = 0.2
    """Share of images rendered smaller and enlarged, as soft close-ups are."""
    jpeg_share: float = 0.25
    """Share of images that go through JPEG once."""
    blur_share: float = 0.35
    """Share of images with defocus or motion blur."""
    oblique_share: float = 0.3
    """Share of images taken from the side, turned a little."""
    sharpen_share: float = 0.15
    """Share of images whose camera sharpens them."""
    subtle_share: float = 0.4
    """Share of defects painted with low contrast; on surfaces that hide the first tries it is less."""
    max_defects: int = 4
    """Most defects in one image."""
    min_visibility: float = 0.025
    """Smallest mean change of a defect, in [0, 1] brightness; below it, and where it does not differ from its surface
    by 1.4 to 2.5 times this (`visible.py`), the defect is drawn again."""
    mask_alpha: float = 0.3
    """Blend weight above which a pixel belongs to the defect."""
    tries: int = 12
    """Attempts for each wanted defect before the image stays with fewer."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.normal_share <= 1.0:
            raise ValueError(f"normal_share = {self.normal_share} is not in [0, 1]")
        if not 16 <= self.min_side <= self.max_side <= 512:
            raise ValueError(f"min_side = {self.min_side}, max_side = {self.max_side}: need 16 <= min <= max <= 512")


@dataclass(frozen=True)
class DefectNote:
    """One painted defect, measured on its own pixels."""

    kind: str
    """What it is: "scratch", "crack", "stain", ..."""
    look: tuple[str, ...]
    """Adjectives, contrast or colour first: ("dark", "jagged")."""
    size: str
    """"tiny", "small", "medium-sized" or "large", by its share of the image."""
    place: str
    """Cell of the 3x3 grid that holds the centroid: "top-left" ... "center" ... "bottom-right"."""
    box: tuple[int, int, int, int]
    """x0, y0, x1, y1 in pixels, exclusive at the end."""
    area_px: int
    """Number of pixels."""


@dataclass(frozen=True)
class SurfaceNote:
    """The inspected thing."""

    name: str
    """"woven fabric", "brushed steel", ..."""
    kind: str
    """The family, used as category of a folder: "woven", "brushed", "circuit", ..."""
    colours: tuple[str, ...]
    """The word for its colour in the picture; none for a black and white scan."""
    expect: str
    """How it looks when all is well: "a regular weave"."""
    grey: bool = False
    """Whether the picture has no colours."""


@dataclass(frozen=True)
class Caption:
    """The fields of an Anomaly-Instruct record (appendix, Figure A.5)."""

    exists: bool
    Expectation: str
    Observation: str
    Diagnosis: str
    Summary: str
    Explanation: str


@dataclass(frozen=True)
class Sample:
    """One synthetic image with its truth."""

    image: np.ndarray
    """uint8 RGB [H,W,3]."""
    mask: np.ndarray
    """bool [H,W], the pixels that the defects changed visibly, and the narrow gaps between them; empty when normal."""
    defects: tuple[DefectNote, ...]
    masks: tuple[np.ndarray, ...]
    """bool [H,W] of each of the defects."""
    surface: SurfaceNote
    parts: dict[str, np.ndarray]
    """Masks for general segmentation, name -> bool [H,W]; may be empty."""
    caption: Caption


def place_word(x: float, y: float, width: int, height: int) -> str:
    """Cell of the 3x3 grid that holds the point (x, y), pixel centres at whole numbers."""
    row = ("top", "", "bottom")[min(int(3 * (y + 0.5) / height), 2)]
    column = ("left", "", "right")[min(int(3 * (x + 0.5) / width), 2)]
    return "-".join(word for word in (row, column) if word) or "center"


def size_word(area_px: int, image_px: int) -> str:
    """Size of a defect by its share of the image."""
    share = area_px / image_px
    for limit, word in ((0.001, "tiny"), (0.008, "small"), (0.05, "medium-sized")):
        if share < limit:
            return word
    return "large"
