"""The five fields of a record, written from the notes alone with a small vocabulary."""

import re
from dataclasses import asdict

import numpy as np

from agvas_train.data.synth.notes import Caption, DefectNote, SurfaceNote

ANCHORS = "[NOR][ANO][SEG]"

# kind -> what the observation says it does, what the diagnosis says it means
_MEANING: dict[str, tuple[str, str]] = {
    "scratch": ("cutting across the surface", "mechanical damage"),
    "crack": ("splitting the surface", "a fracture of the material"),
    "hole": ("opening the surface", "loss of material"),
    "pinhole": ("opening the copper", "loss of copper"),
    "dent": ("bending the surface", "a pressed or bumped spot"),
    "stain": ("changing the surface colour", "dirt or liquid on the surface"),
    "contamination": ("lying on the surface", "foreign matter"),
    "missing part": ("leaving a gap in the structure", "loss of material"),
    "displaced part": ("out of line with the structure", "a wrongly placed part"),
    "fray": ("with loose, torn structure", "wear or tearing"),
    "chip": ("biting into the edge", "breakage at the edge"),
    "colour fault": ("differing in colour from its surroundings", "an uneven colour"),
    "uneven": ("differing in brightness from its surroundings", "uneven processing"),
    "scale": ("with a rougher texture", "rolled-in scale"),
    "off-shade": ("of another shade than its surroundings", "a soaked, ground or otherwise coated area"),
    "foreign patch": ("with a structure of its own", "foreign material on the surface"),
    "inclusion": ("embedded in the surface", "foreign matter in the material"),
    "distortion": ("with bent structure", "a pulled or twisted structure"),
    "crease": ("folding the surface", "a fold or a pressed line"),
    "gouge": ("cut deep into the surface", "mechanical damage"),
    "spalling": ("flaked off the surface", "loss of material"),
    "corrosion": ("eating into the surface", "corrosion"),
    "smear": ("wiped over the surface", "a film of dirt or glue"),
    "burn": ("changing the tone of the surface", "too much heat"),
    "crazing": ("netting the surface with fine cracks", "stress in the surface"),
    "wear": ("with a texture that is rubbed away", "wear"),
    "bubble": ("raising the surface", "air or moisture under the surface"),
    "scuff": ("rubbed across the surface", "mechanical damage"),
    "growth": ("standing out of the surface", "a growth"),
    "lesion": ("with several tones of its own", "a changed tissue or skin"),
    "mass": ("differing from the tissue around it", "a mass in the body"),
    "short": ("joining two conductors", "a short circuit"),
    "open": ("interrupting a track", "an open circuit"),
    "spur": ("sticking out of a track", "excess copper at the edge"),
    "mouse bite": ("biting into a track", "loss of copper at the edge"),
    "excess copper": ("lying on the bare board", "copper left behind"),
}
_NOUNS = {
    "colour fault": "off-tone area",
    "wear": "worn area",
    "corrosion": "corroded area",
    "spalling": "spalled area",
    "crazing": "crazed area",
    "uneven": "uneven area",
    "scale": "scale patch",
    "off-shade": "off-shade patch",
    "fray": "frayed area",
    "open": "open circuit",
    "short": "short circuit",
    "distortion": "distorted area",
    "excess copper": "copper residue",
}
_NUMBERS = {2: "Two", 3: "Three", 4: "Four"}


def noun(kind: str) -> str:
    """The noun a caption uses for a kind of defect; it contains or stands for the kind."""
    return _NOUNS.get(kind, kind)


def _article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def _phrase(note: DefectNote) -> str:
    return _article(" ".join([note.size, *note.look, noun(note.kind)]))


PLACE_WORDS = (
    " top",
    " bottom",
    " left",
    " right",
    " center",
    " top-left",
    " top-right",
    " bottom-left",
    " bottom-right",
)
"""As they stand in a caption, behind a space."""


def where(place: str) -> str:
    """The words for a cell of the grid of places: "in the center", "at the top-left"."""
    return "in the center" if place == "center" else f"at the {place}"


def _choose(rng: np.random.Generator, *options: str) -> str:
    return options[int(rng.integers(len(options)))]


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def caption(rng: np.random.Generator, surface: SurfaceNote, defects: tuple[DefectNote, ...]) -> Caption:
    """The record of one image; phrasing varies, content comes from the notes only, and grey pictures have no colour."""
    record = _record(rng, surface, defects)
    if not surface.grey:
        return record
    texts = asdict(record)
    return Caption(texts.pop("exists"), **{field: re.sub(r"\bcolour\b", "tone", text) for field, text in texts.items()})


def _record(rng: np.random.Generator, surface: SurfaceNote, defects: tuple[DefectNote, ...]) -> Caption:
    thing = surface.name
    expectation = _choose(
        rng,
        f"The {thing} should have {surface.expect}.",
        f"The {' '.join([*surface.colours[:1], thing])} should show {surface.expect}.",
    )
    if not defects:
        observation = _choose(
            rng, f"The {thing} shows {surface.expect} everywhere.", f"The whole {thing} has {surface.expect}."
        )
        diagnosis = _choose(
            rng, "Nothing breaks its regular look, so there is no defect.", "It looks normal, without any defect."
        )
        return Caption(False, expectation, observation, diagnosis, "", f"{expectation} {observation} {diagnosis}")
    listed = [f"{_phrase(note)} {where(note.place)}" for note in defects]
    if len(defects) == 1:
        cue, meaning = _MEANING[defects[0].kind]
        observation = _choose(
            rng,
            f"{_capital(_phrase(defects[0]))} appears {where(defects[0].place)}, {cue}.",
            f"{_capital(_phrase(defects[0]))} is visible {where(defects[0].place)}, {cue}.",
        )
        subject, head = "This", f"The defect is {listed[0]} of the {thing}"
    else:
        both = ", ".join(listed[:-1]) + " and " + listed[-1]
        observation = f"{_NUMBERS[len(defects)]} defects stand out: {both}."
        kinds = list(dict.fromkeys(note.kind for note in defects))
        meaning = " and ".join(dict.fromkeys(_MEANING[kind][1] for kind in kinds[:2]))
        subject, head = "They", f"The defects are {both} of the {thing}"
    verb = ("breaks", "points") if subject == "This" else ("break", "point")
    diagnosis = _choose(
        rng, f"{subject} {verb[0]} the normal look and {verb[1]} to {meaning}.", f"{subject} {verb[1]} to {meaning}."
    )
    ending = _choose(
        rng, f", as shown in {ANCHORS}.", f", as indicated by {ANCHORS}.", f". The segmentation is {ANCHORS}."
    )
    first = expectation[0].lower() + expectation[1:]
    explanation = (
        f"Normally, {first} However, {observation[0].lower()}{observation[1:]} "
        f"Therefore, {diagnosis[0].lower()}{diagnosis[1:]} In conclusion, {head[0].lower()}{head[1:]}."
    )
    return Caption(True, expectation, observation, diagnosis, head + ending, explanation)
