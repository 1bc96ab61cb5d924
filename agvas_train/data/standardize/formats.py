"""The sets that can be standardised, by their names in the registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agvas_train.data.standardize import dagm, folders, ksdd2, medical, rsdd, visa
from agvas_train.data.standardize.parts import Found


@dataclass(frozen=True)
class Format:
    """How a download is read."""

    list_parts: Callable[[Path, int], Found]
    """From the source and the seed."""
    rule: str
    """Which of its images are taken, in words."""
    paper: tuple[int, int]
    """Test images, and defective ones among them, of the file that the paper evaluates on."""
    balanced: bool = False
    """Whether of each category only as many normal images are taken as defective ones, drawn by the seed."""


FORMATS = {
    "mvtec": Format(folders.list_mvtec, folders.RULE, (1725, 1258)),
    "visa": Format(visa.list_parts, visa.RULE, (2162, 1200)),
    "ksdd2": Format(ksdd2.list_parts, ksdd2.RULE, (712, 356), balanced=True),
    "rsdd": Format(rsdd.list_parts, rsdd.RULE, (774, 387), balanced=True),
    "isic": Format(medical.list_isic, medical.ISIC_RULE, (379, 379)),
    "clinicdb": Format(medical.list_clinicdb, medical.RULE, (612, 612)),
    "colondb": Format(medical.list_colondb, medical.RULE, (380, 380)),
    "btad": Format(folders.list_btad, folders.BTAD_RULE, (741, 290)),
    "dagm": Format(dagm.list_parts, dagm.RULE, (2700, 1350), balanced=True),
}
