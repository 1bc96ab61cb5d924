"""Whether an answer may be used: the schema of Figure A.5, and those of its rules that a program can check.

Not checked: whether what an answer says is true, and whether the Diagnosis explains.
"""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

ANCHORS = "[NOR][ANO][SEG]"
OPEN, CLOSE = "<RESPONSE_JSON>", "</RESPONSE_JSON>"
MOST_SENTENCES = {"Expectation": 3, "Observation": 3, "Diagnosis": 3, "Summary": 3, "Explanation": 6}
"""The figure says 1 to 3; its own example of an Explanation, which sums up the others, has 4."""

_ANY_ANCHOR = re.compile(r"\[\s*(?:NOR|ANO|SEG)\s*\]", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?]\s+(?=[A-Z])")
_FORBIDDEN = re.compile(
    r"(?i:\bbounding[ -]?box\w*|\bgreen[ -](?:colou?red[ -])?(?:box|rectang|frame|outline|overlay|highlight|mask)\w*"
    r"|\bgreen[ -](?:region|area)s?\b|\bground[ -]?truth\b|\bmask(?:s|ed|ing)?\b|\bannotat\w+"
    r"|\b(?:normal|reference|original|first|second|third|other|provided|given) images?\b|\b(?:two|three|both) images\b"
    r"|\breference (?:sample|picture|photo)\w*|\b(?:the|a) reference\b)"
    r"|\b[Ii]mages? [\"'“]?[ABC]\b"
)

_CUES = {
    "location": "left right top bottom upper lower center central centre middle edge corner side near beside along"
    " across above below beneath between inner outer adjacent tip end rim border base surface front back located",
    "colour or brightness": "colour color dark light bright pale black white grey gray red orange yellow green blue"
    " purple violet pink brown beige tan golden silver rust discolour discolor faded shiny dull glossy contrast",
    "shape": "shape round circular oval elongated irregular line linear straight curve bent crooked jagged triangular"
    " rectangular square pointed sharp branch cluster streak spot patch protrud protrusion depression groove",
    "size": "size sized small tiny large big huge long short wide narrow thin thick deep shallow minute extensive",
    "texture": "texture rough smooth grain coarse uneven porous fuzz wrinkle fray fibre fiber pattern weave structure"
    " matte",
    "difference from normal": "break interrupt disrupt differ unlike missing absent gap stand instead deviate distort"
    " inconsistent misalign displaced surrounding otherwise compare opening splitting leaving changing lying embedded"
    " joining biting bending sticking torn",
}
_SUFFIX = r"(?:s|es|d|ed|en|ened|er|est|ing|ish|ly|y|ness|al|ation|ent|ment|ence|ity){0,3}"
"""At most three, as in "thickenings": without a bound a long word can be split in more ways than can be tried."""
_CUE_WORDS = {
    kind: re.compile(rf"\b(?:{'|'.join(words.split())}){_SUFFIX}\b", re.IGNORECASE) for kind, words in _CUES.items()
}


class Fields(BaseModel):
    """What an answer holds (Figure A.5)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    exists: bool
    Expectation: str
    Observation: str
    Diagnosis: str
    Summary: str
    Explanation: str


class Refused(Exception):
    """An answer cannot be used."""

    def __init__(self, *faults: str) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults
        """What is wrong with it, each in a few words that its author can act on."""


def read_answer(text: str, anomalous: bool) -> Fields:
    """The fields of an answer's last JSON block, if they may be used for an image with or without a defect.

    An answer that is the JSON and nothing else may lack the tags around it. Raises Refused.
    """
    fields = _parse(text)
    if faults := find_faults(fields, anomalous):
        raise Refused(*faults)
    return fields


def find_faults(fields: Fields, anomalous: bool) -> list[str]:
    """What is wrong with the fields of an image with or without a defect; nothing where they may be used."""
    if fields.exists is not anomalous:
        truth = "there is a defect in it" if anomalous else "there is no defect in it"
        return [f'"exists" is {str(fields.exists).lower()}, but {truth}']
    faults: list[str] = []
    texts = {name: str(text).strip() for name, text in fields if name != "exists"}
    for name, text in texts.items():
        if not text and (anomalous or name != "Summary"):
            faults.append(f"{name} is empty")
        if (count := len(_SENTENCE_END.findall(text)) + 1) > MOST_SENTENCES[name]:
            faults.append(f"{name} has {count} sentences, at most {MOST_SENTENCES[name]} are allowed")
        if found := _FORBIDDEN.search(text):
            faults.append(f'{name} says "{found.group()}", which must not be mentioned')
        if (name != "Summary" or not anomalous) and _ANY_ANCHOR.search(text):
            faults.append(f"{name} holds an anchor, which belongs into the Summary of a defect only")
    if not anomalous:
        return faults
    summary = texts["Summary"]
    if summary.count(ANCHORS) != 1 or len(_ANY_ANCHOR.findall(summary)) != 3:
        faults.append(f"Summary must hold {ANCHORS} exactly once")
    if len(found_cues := cues(texts["Observation"])) < 2:
        found_text = found_cues[0] if found_cues else "none"
        faults.append(f"Observation must describe at least two visual cues of {', '.join(_CUES)}; found {found_text}")
    return faults


def cues(observation: str) -> list[str]:
    """The kinds of visual cues that a text names, by their usual words."""
    return [kind for kind, words in _CUE_WORDS.items() if words.search(observation)]


def _parse(text: str) -> Fields:
    begin = text.rfind(OPEN)
    if begin >= 0:
        end = text.find(CLOSE, begin)
        if end < 0:
            raise Refused(f"{CLOSE} is missing: the answer is cut off")
        text = text[begin + len(OPEN) : end]
    text = text.strip()
    if text.startswith("```"):  # as the figure's own example is fenced
        text = text.strip("`").removeprefix("json").strip()
    try:
        return Fields.model_validate_json(text)
    except ValidationError as error:
        raise Refused(*(_fault(found) for found in error.errors(include_url=False, include_input=False))) from None


def _fault(found: ErrorDetails) -> str:
    """One of pydantic's errors in a line."""
    where = ".".join(str(part) for part in found["loc"])
    message = " ".join(found["msg"].split())[:200]
    if found["type"] == "json_invalid":
        return f"it is not one JSON block ({message})"
    return f'field "{where[:80]}": {message}' if where else message
