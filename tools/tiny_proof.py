"""What the embedded model is worth: `make proof-tiny`. Writes benchmarks/full/<date>-<commit>-tiny.json.

Quality of the checkpoint (float32) and of the bundle made from it on synthetic images of training's families, of
families that training never draws, and on the evaluation images where there are any; what is lost without a part of the
method; how often what is said is true. None of these images is trained on. Half an hour on two idle cores.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from agvas_runtime import console
from agvas_runtime.bench.machine import describe_machine, git_commit
from agvas_runtime.bundle import Bundle, default_bundle_path
from agvas_runtime.datasets import Dataset, Item, load_dataset
from agvas_runtime.evaluate.rows import FIGURES, Row, without_nan
from agvas_runtime.evaluate.run import evaluate_dataset
from agvas_runtime.evaluate.sources import Asks, Model, Source, asks
from agvas_runtime.modes import Request
from agvas_train.checkpoint import default_checkpoint_path
from agvas_train.data.synth import Families, SynthConfig
from agvas_train.data.synth.folder import write_folder
from agvas_train.reference import ReferenceSegmenter
from agvas_train.weights.store import weights_sha256

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tools.said_and_true import said_and_true
from tools.shared_images import real_images

REPOSITORY = Path(__file__).resolve().parents[1]
SEED = 1_000_003
"""Of the test images; training's are 0 and 1."""
ABLATIONS: dict[str, tuple[bool, float | None]] = {
    "all parts": (True, None),
    "without SPAM": (False, None),
    "without [SEG]": (True, 0),
    "without [NOR][ANO]": (True, 1),
    "[NOR][ANO] alone": (False, 0),
    "[SEG] alone": (False, 1),
}
"""Whether the language model sees the pixel features, and the weight of [SEG]'s map beside that of [NOR][ANO]."""


class Nothing(nn.Module):
    """In SPAM's place: aligned tokens of zeros."""

    def forward(self, semantic: Tensor, pixel: Tensor) -> Tensor:
        """f_s [B, N, d] to zeros of its shape."""
        return torch.zeros_like(semantic)


@dataclass(frozen=True)
class Ablated:
    """A checkpoint less a part, as a source of answers; nothing is trained again without the part."""

    path: Path
    spam: bool
    alpha: float | None

    def open(self) -> tuple[Asks, str]:
        """As `Source.open`."""
        segmenter = ReferenceSegmenter.open(self.path, template_scores=False)
        if self.alpha is not None:
            segmenter.config = segmenter.config.model_copy(update={"alpha": self.alpha})
        if not self.spam:
            segmenter.model.spam = Nothing()
        return asks(segmenter, Request()), segmenter.weights_note

    def settings(self, items: Iterable[Item]) -> dict[str, Any]:
        """As `Source.settings`."""
        return {"engine": "reference", "model": str(self.path), "spam": self.spam, "alpha": self.alpha}


def figures(source: Source, dataset: Dataset) -> dict[str, Any]:
    """The mean over the categories, and each category's row in short."""
    evaluation = evaluate_dataset(source, dataset).evaluation
    short = ("ap", "f1_max", "iou_ano", "iou_nor")
    counts = ("images", "normal", "rejected_normals", "rejected_defectives")
    categories = {row.category: _rounded(row, short) for row in evaluation.rows}
    return {**_rounded(evaluation.mean(), (*FIGURES, *counts)), "categories": categories}


def _rounded(row: Row, names: Iterable[str]) -> dict[str, Any]:
    found = without_nan(row)
    return {name: round(value, 2) if isinstance(value := found[name], float) else value for name in names}


def main() -> None:
    """Measure everything and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=default_checkpoint_path())
    parser.add_argument("--bundle", type=Path, default=default_bundle_path())
    parser.add_argument("--images", type=int, default=600, help="synthetic images of either kind of family")
    parser.add_argument("--out", type=Path, help="file to write; by default benchmarks/full/<date>-<commit>-tiny.json")
    chosen = parser.parse_args()
    commit = (git_commit(REPOSITORY) or "unknown")[:12]
    report: dict[str, Any] = {
        "machine": describe_machine(),
        "commit": commit,
        "weights_sha256": weights_sha256(chosen.checkpoint),
        "checkpoint_bytes": sum(file.stat().st_size for file in chosen.checkpoint.iterdir()),
        "bundle_bytes": Bundle.open(chosen.bundle).size_bytes,
        "synthetic_images": chosen.images,
        "seed": SEED,
    }
    with tempfile.TemporaryDirectory() as scratch:
        sets = {}
        for families in (Families.TRAINING, Families.HELD_OUT):
            write_folder(Path(scratch) / families.value, chosen.images, SEED, SynthConfig(families=families))
            sets[families.value] = load_dataset(Path(scratch) / families.value)
        if real := real_images():
            sets["real"] = load_dataset(real)
        float32, bundle = Model("reference", chosen.checkpoint), Model("ort", chosen.bundle)
        for name, dataset in sets.items():
            console.note(f"{name}: checkpoint, then bundle")
            report[name] = {"float32": figures(float32, dataset), "bundle": figures(bundle, dataset)}
        report["ablations"] = {}
        for name, (spam, alpha) in ABLATIONS.items():
            console.note(f"held-out: {name}")
            report["ablations"][name] = figures(Ablated(chosen.checkpoint, spam, alpha), sets["held-out"])
    console.note("what is said")
    segmenter = ReferenceSegmenter.open(chosen.checkpoint, template_scores=False)
    report["language"] = said_and_true(segmenter, SEED + 1, chosen.images // 2)
    out = chosen.out or REPOSITORY / "benchmarks" / "full" / f"{date.today().isoformat()}-{commit}-tiny.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    print(f"wrote {out.relative_to(REPOSITORY) if out.is_relative_to(REPOSITORY) else out}")


if __name__ == "__main__":
    main()
