"""ISIC, CVC-ClinicDB and CVC-ColonDB: a folder of images and one of masks; every image holds what is looked for."""

from __future__ import annotations

from pathlib import Path

from agvas_train.data.standardize.parts import Found, defective
from agvas_train.data.standardize.search import find_pair

RULE = "every image that has a mask; one category, no normal images"
ISIC_RULE = f"{RULE}; the test images of 2016 where they are there, else those of 2018"


def list_isic(source: Path, seed: int) -> Found:
    """The test images of ISIC 2016 or 2018. Raises InputError where there are none."""
    known = (("*Part1_Test_Data", "*Part1_Test_GroundTruth"), ("*Task1-2_Test_Input", "*Task1_Test_GroundTruth"))
    return defective(*find_pair(source, "ISIC", *known), category="skin")


def list_clinicdb(source: Path, seed: int) -> Found:
    """All images of CVC-ClinicDB. Raises InputError where there are none."""
    known = (("Original", "Ground Truth"), ("images", "masks"))
    return defective(*find_pair(source, "CVC-ClinicDB", *known), category="colon")


def list_colondb(source: Path, seed: int) -> Found:
    """All images of CVC-ColonDB. Raises InputError where there are none."""
    return defective(*find_pair(source, "CVC-ColonDB", ("images", "masks")), category="colon")
