"""The table of all surfaces, with how often each is drawn."""

from collections.abc import Callable

import numpy as np

from agvas_train.data.synth import (
    abstract,
    assembled,
    bodies,
    circuit,
    corded,
    everyday,
    joined,
    laid,
    metal,
    mineral,
    organic,
    parts,
    printed,
    relief,
    round_metal,
    textile,
)
from agvas_train.data.synth.scene import Scene

SurfaceMaker = Callable[[np.random.Generator, int, int], Scene]

# maker -> (weight, gloss)
SURFACES: dict[SurfaceMaker, tuple[float, float]] = {
    metal.brushed: (1.2, 0.25),
    metal.rolled: (1.5, 0.1),
    mineral.asphalt: (1.3, 0.0),
    mineral.stone: (0.6, 0.15),
    textile.woven: (1.2, 0.0),
    textile.knitted: (0.35, 0.0),
    textile.felt: (0.35, 0.0),
    organic.wood: (0.8, 0.1),
    organic.leather: (0.8, 0.2),
    organic.plain: (0.8, 0.6),
    laid.tiles: (0.7, 0.1),
    laid.perforated: (0.35, 0.2),
    laid.mesh: (0.4, 0.05),
    printed.printed: (0.8, 0.1),
    circuit.circuit: (0.9, 0.1),
    parts.part: (2.2, 0.3),
    parts.tray: (0.4, 0.2),
    abstract.abstract: (2.5, 0.15),
    joined.joined: (0.9, 0.1),
    assembled.electronics: (0.4, 0.1),
    assembled.panel: (0.5, 0.15),
    everyday.pack: (0.7, 0.15),
    everyday.biscuit: (0.5, 0.0),
    corded.rope: (0.6, 0.0),
    corded.cable_end: (0.25, 0.1),
    relief.plaster: (1.2, 0.0),
    relief.foam: (0.5, 0.0),
    relief.heap: (0.7, 0.1),
    relief.flakes: (0.5, 0.0),
    round_metal.turned_face: (0.7, 0.2),
    round_metal.bar: (1.0, 0.0),
    round_metal.ribbed: (0.6, 0.1),
    bodies.skin: (0.6, 0.1),
    bodies.lining: (0.6, 0.1),
    bodies.scan: (0.7, 0.0),
    bodies.leaf: (0.5, 0.1),
}
HELD_OUT: frozenset[SurfaceMaker] = frozenset((textile.knitted, laid.perforated, mineral.stone))
"""Never drawn in training."""
