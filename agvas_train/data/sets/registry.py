"""Every set by name: its group in the mixture, where it stands below the root, and the page that offers it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from agvas_runtime.errors import InputError
from agvas_train.data.sets.adapter import Adapter
from agvas_train.data.sets.anomaly import AnomalySet
from agvas_train.data.sets.coco import CocoParts
from agvas_train.data.sets.conversations import ConversationMix, Conversations
from agvas_train.data.sets.instruct import Instruct
from agvas_train.data.sets.label_maps import Ade20k, CocoStuff, Mapillary
from agvas_train.data.sets.reason import ReasonSeg
from agvas_train.data.sets.refer import Refer
from agvas_train.data.sets.visa_dr import VisaDetection, VisaReasoning

COCO_IMAGES = "coco/train2017"
ANOMALIES = "anomaly_seg"
INSTRUCT = "anomaly_instruct_20K"
VQA = "vqa_dataset/anomalyov_dataset"


class Group(str, Enum):
    """The groups of Table A.1, and the sets that are for testing only."""

    GENERAL = "general segmentation"
    INSTRUCT = "Anomaly-Instruct"
    SEG = "Anomaly-Seg"
    VQA = "visual question answering"
    TEST = "test"


@dataclass(frozen=True)
class SetEntry:
    """One set that users may have."""

    name: str
    group: Group
    paths: tuple[tuple[str, ...], ...]
    """What it needs below the root, its own first; any one of the alternatives will do."""
    page: str
    """The name of the official page."""
    open: Callable[[Path], Adapter]
    """From the root; reads nothing."""
    in_mixture: bool = True
    """Whether Table A.1 lists it; the paper's tree holds more."""

    def missing(self, root: Path) -> list[str]:
        """Which of the paths are not there."""
        return [each[0] for each in self.paths if not any((root / path).exists() for path in each)]

    def require(self, root: Path) -> None:
        """Raise InputError unless all of them are there."""
        if missing := self.missing(root):
            raise InputError(f"{self.name}: found no {', '.join(missing)} in {root}, expected it there")

    def is_there(self, root: Path) -> bool:
        """Whether its own files are there; what it shares with others may still be missing."""
        return any((root / path).exists() for path in self.paths[0])


def _entry(
    name: str,
    group: Group,
    paths: Iterable[str | tuple[str, ...]],
    page: str,
    adapter: Callable[[str, Path], Adapter],
    in_mixture: bool = True,
) -> SetEntry:
    every = tuple((path,) if isinstance(path, str) else path for path in paths)
    return SetEntry(name, group, every, page, lambda root: adapter(name, root), in_mixture and group is not Group.TEST)


def _parts(name: str, annotations: str, images: str, page: str) -> SetEntry:
    own = (annotations, images)
    return _entry(
        name, Group.GENERAL, own, page, lambda called, root: CocoParts(called, root / annotations, root / images)
    )


def _refer(name: str, split: str, images: str) -> SetEntry:
    folder, pictures = f"refer_seg/{name}", f"refer_seg/images/{images}"
    lists = (f"{folder}/refs({split}).p", f"{folder}/refs({split}).json")
    return _entry(
        name,
        Group.GENERAL,
        (lists, f"{folder}/instances.json", pictures),
        "lichengunc/refer: Referring Expression Datasets API" + (", SAIAPR TC-12" if name == "refclef" else ""),
        lambda called, root: Refer(called, root / folder, split, root / pictures),
    )


def _anomaly(name: str, folder: str, group: Group, page: str, in_mixture: bool = True) -> SetEntry:
    place = f"{ANOMALIES}/{folder}"
    return _entry(name, group, (place,), page, lambda called, root: AnomalySet(called, root / place), in_mixture)


def _instruct(name: str, stem: str, page: str = "AG-VAS: Anomaly-Instruct20K", in_mixture: bool = True) -> SetEntry:
    files = (f"{INSTRUCT}/{stem}.json", f"{INSTRUCT}/{stem}.jsonl")

    def opened(called: str, root: Path) -> Adapter:
        file = next((root / path for path in files if (root / path).is_file()), root / files[0])
        return Instruct(called, file, root / ANOMALIES)

    return _entry(name, Group.INSTRUCT, (files, ANOMALIES), page, opened, in_mixture)


def _asked(
    name: str,
    group: Group,
    file: str,
    images: str,
    page: str,
    adapter: Callable[[str, Path, Path], Adapter],
    in_mixture: bool = True,
) -> SetEntry:
    def opened(called: str, root: Path) -> Adapter:
        return adapter(called, root / file, root / images)

    return _entry(name, group, (file, images), page, opened, in_mixture)


REGISTRY = {
    entry.name: entry
    for entry in (
        _entry(
            "ade20k",
            Group.GENERAL,
            ("ade20k/images/training", "ade20k/annotations/training"),
            "MIT Scene Parsing Benchmark (ADE20K)",
            lambda name, root: Ade20k(name, root / "ade20k"),
        ),
        _entry(
            "coco-stuff",
            Group.GENERAL,
            ("cocostuff/train2017", COCO_IMAGES),
            "COCO-Stuff (stuffthingmaps) and COCO: Common Objects in Context",
            lambda name, root: CocoStuff(name, root / "cocostuff/train2017", root / COCO_IMAGES),
        ),
        _entry(
            "mapillary",
            Group.GENERAL,
            ("mapillary/training/v2.0/labels", "mapillary/training/images", "mapillary/config_v2.0.json"),
            "Mapillary Vistas Dataset 2.0",
            lambda name, root: Mapillary(name, root / "mapillary"),
            in_mixture=False,
        ),
        _parts("paco-lvis", "vlpart/paco/annotations/paco_lvis_v1_train.json", "coco", "PACO: Parts and Attributes"),
        _parts(
            "pascal-part",
            "vlpart/pascal_part/train.json",
            "vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages",
            "VLPart (PASCAL-Part as COCO JSON) and PASCAL VOC 2010",
        ),
        _parts("partimagenet", "partimagenet/train.json", "partimagenet/images/train", "PartImageNet"),
        _refer("refclef", "unc", "saiapr_tc-12"),
        _refer("refcoco", "unc", "mscoco/images/train2014"),
        _refer("refcoco+", "unc", "mscoco/images/train2014"),
        _refer("refcocog", "umd", "mscoco/images/train2014"),
        _entry(
            "reason-seg",
            Group.GENERAL,
            ("reason_seg/ReasonSeg/train",),
            "LISA: ReasonSeg",
            lambda name, root: ReasonSeg(name, root / "reason_seg/ReasonSeg"),
            in_mixture=False,
        ),
        _instruct("real-iad-instruct", "RealIADC"),
        _instruct("dtd-instruct", "DTD"),
        _instruct("goodsad-instruct", "Goods"),
        _instruct("own-instruct", "Own", "records of your own products: agvas-data instruct", in_mixture=False),
        _anomaly("real-iad", "RealIADC1", Group.SEG, "Real-IAD"),
        _anomaly("dtd-synthetic", "DTD", Group.SEG, "DTD-Synthetic (Zero-shot versus Many-shot)"),
        _anomaly("goodsad", "Goods", Group.SEG, "PKU-GoodsAD", in_mixture=False),
        _anomaly("road", "Road", Group.SEG, "CrackForest (Automatic road crack detection)"),
        _anomaly("miad", "MIAD", Group.SEG, "MIAD: Maintenance Inspection Anomaly Detection"),
        _anomaly("gc10", "GC", Group.SEG, "GC10-DET"),
        _anomaly("zju-leaper", "ZJU", Group.SEG, "ZJU-Leaper"),
        _asked(
            "llava-150k",
            Group.VQA,
            "vqa_dataset/llava_dataset/llava_instruct_150k.json",
            COCO_IMAGES,
            "LLaVA-Instruct-150K and COCO: Common Objects in Context",
            Conversations,
        ),
        _asked("webad", Group.VQA, f"{VQA}/webad_processed.json", f"{VQA}/images", "Anomaly-OV: WebAD", Conversations),
        _asked(
            "own-conversations",
            Group.VQA,
            "vqa_dataset/own.yaml",
            "vqa_dataset",
            "conversations of your own, as LLaVA writes them",
            ConversationMix,
            in_mixture=False,
        ),
        _asked("bmad", Group.TEST, f"{VQA}/bmad_zero_shot.json", f"{VQA}/images", "Anomaly-OV: BMAD", Conversations),
        _asked("visa-detection", Group.TEST, f"{VQA}/test_data.json", f"{VQA}/images", "VisA-D&R", VisaDetection),
        _asked("visa-reasoning", Group.TEST, f"{VQA}/visa_dr.json", f"{VQA}/images", "VisA-D&R", VisaReasoning),
        _anomaly("mvtec", "mvtec", Group.TEST, "MVTec Anomaly Detection Dataset (MVTec AD)"),
        _anomaly("visa", "visa", Group.TEST, "Visual Anomaly (VisA): SPot-the-Difference"),
        _anomaly("ksdd2", "KSDD2", Group.TEST, "Kolektor Surface-Defect Dataset 2 (KolektorSDD2)"),
        _anomaly("rsdd", "RSDD", Group.TEST, "RSDDs: Rail Surface Discrete Defects"),
        _anomaly("isic", "ISIC", Group.TEST, "ISIC Challenge 2016 or 2018: Lesion Segmentation"),
        _anomaly("clinicdb", "ClinicDB", Group.TEST, "CVC-ClinicDB"),
        _anomaly("colondb", "ColonDB", Group.TEST, "CVC-ColonDB"),
        _anomaly("btad", "BTAD", Group.TEST, "BTAD: beanTech Anomaly Detection"),
        _anomaly("dagm", "DAGM", Group.TEST, "DAGM 2007: Weakly Supervised Learning for Industrial Optical Inspection"),
    )
}


def find_set(name: str) -> SetEntry:
    """The set of this name. Raises InputError where there is none."""
    if name not in REGISTRY:
        near = difflib.get_close_matches(name, REGISTRY, 1)
        expected = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(REGISTRY)}"
        raise InputError(f"{name!r}: no such data set; {expected}")
    return REGISTRY[name]


def open_sets(root: Path | str, names: Iterable[str] | None = None) -> dict[str, Adapter]:
    """Adapters by name: of the sets that are wholly there, or of the named ones.

    Raises:
        InputError: the root is no folder, a name is none of a set, or a named set is not wholly there.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: found no folder, expected the root of the data sets")
    if names is None:
        return {name: entry.open(root) for name, entry in REGISTRY.items() if not entry.missing(root)}
    opened = {}
    for name in names:
        entry = find_set(name)
        entry.require(root)
        opened[name] = entry.open(root)
    return opened
