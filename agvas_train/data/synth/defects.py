"""The table of all kinds of defects."""

from agvas_train.data.synth import defects_areas as areas
from agvas_train.data.synth import defects_circuit as boards
from agvas_train.data.synth import defects_lines as on_lines
from agvas_train.data.synth import defects_spots as spots
from agvas_train.data.synth import defects_structure as structure
from agvas_train.data.synth.paint import Painter

PAINTERS: dict[str, Painter] = {
    "scratch": on_lines.scratch,
    "crack": on_lines.crack,
    "inclusion": on_lines.inclusion,
    "stain": spots.stain,
    "hole": spots.hole,
    "dent": spots.dent,
    "contamination": spots.contamination,
    "missing part": structure.missing,
    "displaced part": structure.displaced,
    "distortion": structure.distortion,
    "fray": structure.fray,
    "chip": structure.chip,
    "colour fault": areas.colour_fault,
    "uneven": areas.uneven,
    "scale": areas.scale,
    "foreign patch": areas.foreign_patch,
    "short": boards.short,
    "open": boards.open_,
    "spur": boards.spur,
    "mouse bite": boards.mouse_bite,
    "pinhole": boards.pinhole,
    "excess copper": boards.excess,
}
HELD_OUT = frozenset(("contamination", "dent", "fray"))
"""Never drawn in training."""
EVERYWHERE = {"foreign patch": 0.6}
"""Weights of what can happen to every surface that has no weight of its own for it."""
