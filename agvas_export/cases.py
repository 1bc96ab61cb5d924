"""What the single pass is proved on: requests of every mode and length, frames of every size. No models."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.modes import Mode, Request
from agvas_runtime.prompts import MAX_INSTRUCTION_CHARACTERS
from agvas_runtime.templates import CLASS_FIELD, MAX_CLASS_CHARACTERS, Templates
from agvas_train.data.synth import generate

SEED = 20_260_303
"""Of synthetic frames that no training, export or planting uses."""
CLASSES = ("scratches", "anomalies", "qwzx glorp", "Blasen im Lack", "ひび割れ", "a", "x" * MAX_CLASS_CHARACTERS)
"""Known and unknown ones, in other words than the tokenizer knows, short and long."""
SIZES = ((1, 1), (2, 3), (7, 301), (64, 48), (333, 127), (500, 17))
"""Heights and widths of the frames that are no pictures."""
BLANK = ("", " ", "\n\t ")


def requests(templates: Templates) -> list[Request]:
    """Every mode and every direct template, classes that nobody knows, one letter and 500 characters."""
    filled = [
        template.replace(CLASS_FIELD, CLASSES[number % len(CLASSES)])
        for number, template in enumerate(templates.direct_instructions)
    ]
    look = "A grey plate with four holes, without any marks."
    long = " ".join(["segment every mark that you can see in this image"] * 10)[:MAX_INSTRUCTION_CHARACTERS]
    return [
        Request(),
        *(Request(instruction=text) for text in filled),
        *(Request(class_name=name) for name in CLASSES),
        *(Request(Mode.DESCRIBE, class_name=name) for name in (None, *CLASSES[:3])),
        *(Request(Mode.DESCRIBE_PLUS, class_name=name, normal_look=look) for name in (None, *CLASSES[2:4])),
        *(Request(Mode.EXPLAIN, class_name=name) for name in (None, *CLASSES[:3])),
        *(Request(Mode.GENERAL, class_name=name) for name in CLASSES[:4]),
        *(Request(Mode.CONVERSATION, text) for text in ("What is in this image?", "x")),
        *(Request(Mode.FINE_GRAINED, text) for text in ("Segment the top-left defect.", "the smallest one", "?")),
        *(Request(instruction=text) for text in ("x", ".", long, "y" * MAX_INSTRUCTION_CHARACTERS)),
    ]


def frames(count: int) -> list[NDArray[np.uint8]]:
    """Synthetic pictures, and one noise and one flat frame of an odd size for every two of them."""
    random = np.random.default_rng(SEED)
    made: list[NDArray[np.uint8]] = []
    for number in range(count):
        height, width = SIZES[number // 4 % len(SIZES)]
        if number % 4 == 2:
            made.append(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        elif number % 4 == 3:
            made.append(np.full((width, height, 3), random.integers(0, 256), np.uint8))
        else:
            made.append(generate(SEED, number).image)
    return made
