"""The pictures of the model card: what the embedded model makes of defects that it finds hard. Writes docs/images/.

Of each kind the first images of a stream that training never draws, whatever became of them.
"""

import argparse
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path

import numpy as np
from PIL import Image

from agvas_runtime.evaluate.pictures import draw_panels
from agvas_runtime.evaluate.score import Compared
from agvas_runtime.segmenter import Segmenter
from agvas_train.data.synth import Sample, SynthConfig, generate

SEED, ROWS, WIDTH = 1_000_007, 4, 720
SMOOTH = {"uneven", "colour fault", "stain"}
LOGICAL = {"missing part", "displaced part", "open", "short"}
HARD: dict[str, Callable[[Sample], bool]] = {
    "several": lambda made: len({note.kind for note in made.defects}) >= 2,
    "smooth": lambda made: any(note.kind in SMOOTH and note.size == "large" for note in made.defects),
    "logical": lambda made: bool(made.defects) and {note.kind for note in made.defects} <= LOGICAL,
}
CONFIG = SynthConfig(normal_share=0)


def samples(chosen: Callable[[Sample], bool]) -> Iterator[Sample]:
    """The samples of the stream that are chosen, in its order."""
    return (made for index in count() if chosen(made := generate(SEED, index, CONFIG)))


def main() -> None:
    """Write a sheet for each kind: image, truth, map with the mask's outline."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, help="by default the embedded one")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[1] / "docs" / "images")
    arguments = parser.parse_args()
    segmenter = Segmenter.open(arguments.bundle)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, chosen in HARD.items():
        rows = []
        for made in islice(samples(chosen), ROWS):
            result = segmenter.segment(made.image)
            rows.append(draw_panels(made.image, Compared(result.probability, result.mask, made.mask)))
        sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height + 4 for row in rows)), "white")
        for row, top in zip(rows, np.cumsum([0, *(row.height + 4 for row in rows)]), strict=False):
            sheet.paste(row, (0, int(top)))
        sheet.thumbnail((WIDTH, sheet.height))
        sheet.save(arguments.out / f"card-{name}.jpg", quality=80)
        print(f"wrote card-{name}.jpg")


if __name__ == "__main__":
    main()
