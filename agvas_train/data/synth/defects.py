"""The table of all kinds of defects."""

from agvas_train.data.synth import defects_areas as areas
from agvas_train.data.synth import defects_circuit as boards
from agvas_train.data.synth import defects_growths as growths
from agvas_train.data.synth import defects_lines as on_lines
from agvas_train.data.synth import defects_marks as marks
from agvas_train.data.synth import defects_rubbed as rubbed
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
    "off-shade": areas.off_shade,
    "foreign patch": areas.foreign_patch,
    "crease": marks.crease,
    "gouge": marks.gouge,
    "spalling": marks.spalling,
    "corrosion": marks.corrosion,
    "smear": marks.smear,
    "burn": marks.burn,
    "crazing": marks.crazing,
    "wear": marks.wear,
    "bubble": rubbed.bubble,
    "scuff": rubbed.scuff,
    "growth": growths.growth,
    "lesion": growths.lesion,
    "mass": growths.mass,
    "short": boards.short,
    "open": boards.open_,
    "spur": boards.spur,
    "mouse bite": boards.mouse_bite,
    "pinhole": boards.pinhole,
    "excess copper": boards.excess,
}
HELD_OUT = frozenset(("contamination", "dent", "fray"))
"""Never drawn in training."""
EVERYWHERE = {"off-shade": 2.0, "foreign patch": 0.6, "smear": 0.3, "burn": 0.2, "wear": 0.2}
"""Weights of what can happen to every surface that has no weight of its own for it."""
