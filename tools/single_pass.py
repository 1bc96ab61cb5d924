"""Does the single pass answer as decoding token by token does? `make proof-single-pass`.

Over a thousand pairs of an image and a request, on the embedded model and random ones, as they are and planted so that
the walk leaves the trie at every depth, in float32 against the reference engine; batches against frames alone; memory
over 10,000 frames. Writes benchmarks/full/<date>-<commit>-single-pass.json; half an hour on two cores.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

# Threads that spin while they wait take the cores from whatever else runs; before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from agvas_export.agreement import RGB, Agreement, Reference, SinglePass
from agvas_export.cases import frames, requests
from agvas_export.export import export_bundle
from agvas_export.graphs import default_plan
from agvas_export.planted import Plantable
from agvas_runtime.bench.machine import describe_machine, git_commit
from agvas_runtime.bundle import Bundle
from agvas_runtime.errors import EngineError
from agvas_runtime.modes import Mode, Request
from agvas_runtime.result import AnswerKind
from agvas_train.assemble import random_base
from agvas_train.checkpoint import default_checkpoint_path, load_checkpoint, write_checkpoint
from agvas_train.model import PRESETS

REPOSITORY = Path(__file__).resolve().parents[1]
SEEDS = (0, 1, 2)
PAIRS, GROWTH_FRAMES = 1000, 10_000
LIMIT = 48
"""Tokens of a random model's answers, which never end by themselves."""
GOES_ON = (" a cat.", " is not so [NOR][ANO][SEG], or [SEG]", "[SEG]")
ANSWERS = (
    "It is a cat.",
    "It looks fine to me.",
    "It is",
    "Sure, it is not [NOR][ANO][SEG] here.",
    "[SEG]",
    "A scratch [ANO].",
    "A crack [NOR], [ANO] and [SEG].",
    "[SEG] [ANO] [NOR]",
    "[NOR][ANO][SEG], [NOR][ANO][SEG] and [NOR][ANO][SEG].",
    "Sure, it is [NOR][ANO][SEG].",
    "No anomalies detected. ",
)
Sides = tuple[SinglePass, Reference]


class Proof:
    """Counts of every model, and of all together."""

    def __init__(self) -> None:
        self.pairs, self.batches = Agreement(), Agreement()
        self.models: dict[str, Agreement] = {}
        self.not_planted: list[str] = []

    def compare(
        self, base: str, what: str, sides: Sides, asked: list[Request], images: list[RGB], limit: int | None
    ) -> None:
        """Pairs of every request and image."""
        single, reference = sides
        for request in asked:
            for number, image in enumerate(images):
                found = single.write([image], request, limit)[0]
                expected = reference.write(image, request, limit)
                for agreement in (self.pairs, self.models.setdefault(base, Agreement())):
                    agreement.add(found, expected, f"{base}, {what}, {request}, limit {limit}, frame {number}")

    def batch(
        self, base: str, what: str, single: SinglePass, request: Request, images: list[RGB], limit: int | None
    ) -> None:
        """Frames together, and each alone."""
        for number, together in enumerate(single.write(images, request, limit)):
            alone = single.write([images[number]], request, limit)[0]
            self.batches.add(together, alone, f"{base}, {what}, {request}, frame {number} of a batch")


def prove(proof: Proof, base: str, plantable: Plantable, limit: int | None) -> None:
    """Everything on one checkpoint: as it is, and planted."""
    sides = plantable.own()
    asked, images = requests(sides[0].templates), frames(8)
    proof.compare(base, "as it is", sides, asked, images[:4] if limit is None else images[:2], limit)
    for request in asked[::6]:
        proof.batch(base, "as it is", sides[0], request, images, limit)
    for number, answer in enumerate(answers(plantable)):
        try:
            sides = plantable.plant(answer)
        except EngineError as error:
            proof.not_planted.append(f"{base}: {error}")
            continue
        others = [asked[number % len(asked)], Request(list(Mode)[number % 3], class_name="qwzx glorp")]
        if others[1].mode is Mode.DESCRIBE_PLUS:
            others[1] = Request(Mode.GENERAL, class_name="scratches")
        proof.compare(base, repr(answer), sides, [Request()], images[:4], LIMIT)
        proof.compare(base, repr(answer), sides, others, images[4:5], LIMIT)
        proof.compare(base, repr(answer), sides, [Request()], images[5:6], 1 + number % 12)
        proof.batch(base, repr(answer), sides[0], Request(), images, LIMIT)


def answers(plantable: Plantable) -> Iterator[str]:
    """Answers that share their beginning with a known one, of every length; and others."""
    yield from ANSWERS
    for depth in range(max(len(answer.tokens) for answer in default_plan(plantable.checkpoint).trie.answers) + 1):
        for nth, goes_on in enumerate(GOES_ON):
            yield plantable.leaving(depth, goes_on, nth * 5)


def random_checkpoint(seed: int, folder: Path) -> Path:
    """A tiny model with random weights, its output head its own, so that it can be planted."""
    config = PRESETS["tiny"](1536)
    config = config.model_copy(update={"language": {**config.language, "tie_word_embeddings": False}})
    write_checkpoint(*random_base(config, seed, "float32"), folder)
    return folder


def missing_depths(agreement: Agreement, plantable: Plantable) -> list[int]:
    """Depths up to the longest rejection where no walk left the trie.

    Asked of the embedded model: the random ones' tokenizer spells the longest rejections with tokens that come twice
    with different followers, which planting cannot make a random model write.
    """
    known = default_plan(plantable.checkpoint).trie.answers
    longest = max(len(answer.tokens) for answer in known if answer.kind is AnswerKind.REJECTED)
    return [depth for depth in range(longest + 1) if not agreement.departures[depth]]


def growth(count: int, threads: int) -> dict[str, Any]:
    """Resident memory over so many frames, in a process of its own."""
    command = [sys.executable, "-m", "agvas_runtime.bench.growth", "--frames", str(count), "--threads", str(threads)]
    printed: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return printed


def main() -> None:
    """Prove it, and write the file; exit code 1 where something is past its bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS, help="of the random models")
    parser.add_argument("--growth-frames", type=int, default=GROWTH_FRAMES)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="by default benchmarks/full/<date>-<commit>-single-pass.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    commit = (git_commit(REPOSITORY) or "unknown")[:12]
    report: dict[str, Any] = {"machine": describe_machine(), "commit": commit}
    proof, began = Proof(), time.perf_counter()
    missing: list[int] = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for base in ("embedded", *(f"random {seed}" for seed in arguments.seeds)):
            source = default_checkpoint_path()
            if base != "embedded":
                source = random_checkpoint(int(base.split()[1]), work / base)
            bundle, graphs = work / f"{base} bundle", work / f"{base} graphs"
            export_bundle(source, bundle, name=base)
            graphs.mkdir()
            checkpoint = load_checkpoint(source, dtype=torch.float32)
            plantable = Plantable(checkpoint, Bundle.open(bundle), graphs)
            prove(proof, base, plantable, None if base == "embedded" else LIMIT)
            found = proof.models[base]
            missing = missing_depths(found, plantable) if base == "embedded" else missing
            print(
                f"{time.perf_counter() - began:6.0f} s  {base}: {found.pairs} pairs, {len(found.check())} faults",
                flush=True,
            )
    faults = [*proof.pairs.check(), *proof.batches.check()]
    faults += [f"no walk left the trie behind {depth} tokens" for depth in missing]
    report |= {
        "pairs": proof.pairs.as_json(),
        "batches_against_frames_alone": proof.batches.as_json(),
        "models": {base: agreement.as_json() for base, agreement in proof.models.items()},
        "not_planted": proof.not_planted,
        "growth": growth(arguments.growth_frames, arguments.threads),
    }
    faults += [f"resident memory grew by {share:.1%}" for share in [report["growth"]["grown"]] if share > 0.02]
    if arguments.seeds and proof.pairs.pairs < PAIRS:
        faults.append(f"{proof.pairs.pairs} pairs, expected {PAIRS}")
    report["faults"] = faults
    out = arguments.out or REPOSITORY / "benchmarks" / "full" / f"{date.today().isoformat()}-{commit}-single-pass.json"
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"{len(faults)} faults; wrote {out.relative_to(REPOSITORY) if out.is_relative_to(REPOSITORY) else out}")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
