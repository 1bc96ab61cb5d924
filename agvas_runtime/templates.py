"""The instruction, answer and rejection templates that training, export and runtime share (`templates.json`).

The paper's own templates stand verbatim in the data file, each list with the figure it comes from; the rest is ours.
Duplicates in a list are sampling weight in training and are merged in the template trie.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agvas_runtime.errors import BundleError

CLASS_FIELD = "{class_name}"
MAX_CLASS_CHARACTERS = 64
"""A longer class name counts as none: the rejections repeat it 14 times, and every copy costs a pass its length."""

Sentences = Annotated[tuple[str, ...], Field(min_length=1)]
"""A list that something is always taken from."""

_SENTENCE_END = re.compile(r"[.!?]\s+")


class Templates(BaseModel):
    """All sentences of the method. A `{class_name}` field stands for what is looked for ("anomalies", "scratches")."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sources: dict[str, str]
    """For each list, the figure or section of the paper it is taken from, or "ours"."""
    class_names: Sentences
    default_class: str
    default_instruction: str
    direct_instructions: Sentences
    direct_answers: Sentences
    describe_instructions: Sentences
    rejections: Sentences
    explain_instructions: Sentences
    general_instructions: Sentences
    general_answers: Sentences
    quoted_instructions: tuple[str, ...] = ()
    """Describe-then-segment instructions that the paper's text quotes beside the figure's; checkpoints and bundles of
    before have none."""

    @property
    def default_template(self) -> str:
        """The direct instruction that becomes the default one when it names the default class."""
        for template in self.direct_instructions:
            if template.replace(CLASS_FIELD, self.default_class) == self.default_instruction:
                return template
        return self.direct_instructions[0]

    def class_of(self, instruction: str) -> str:
        """The class an instruction names: "scratches" in "Please segment the scratches in this image.".

        Sentences before the template, such as one on the normal look of the object, are passed over. Instructions that
        follow no template with a class field, and names of more than 64 characters, stand for the default class.
        """
        starts = [0, *(end.end() for end in _SENTENCE_END.finditer(instruction))]
        for start in reversed(starts):  # a normal look may spell a template too; what is asked comes last
            if named := self._named(instruction[start:]):
                return named if len(named) <= MAX_CLASS_CHARACTERS else self.default_class
        return self.default_class

    def _named(self, instruction: str) -> str | None:
        """The class in an instruction that is a template from its beginning to its end."""
        lists = (
            self.direct_instructions,
            self.describe_instructions,
            self.explain_instructions,
            self.general_instructions,
            self.quoted_instructions,
        )
        templates = (template for each in lists for template in each if CLASS_FIELD in template)
        matches = (_pattern(template).fullmatch(instruction) for template in templates)
        # the most specific template leaves the shortest name: "dents" rather than "dents for the object"
        return min((found["name"] for found in matches if found), key=len, default=None)

    def check_anchors(self, anchors: Sequence[str], *, name: str) -> None:
        """Raise BundleError, naming the file, at the first direct answer without these anchors, once and in order."""
        pattern = re.compile("|".join(map(re.escape, anchors)))
        for number, answer in enumerate(self.direct_answers):
            if pattern.findall(answer) != list(anchors):
                wanted = f"{', '.join(anchors)} in it, in order"
                raise BundleError(f"{name}: direct_answers.{number}: found {answer!r}, expected {wanted}")

    def rejections_of(self, class_name: str) -> tuple[str, ...]:
        """Every distinct rejection (Figure A.7) for this class, in template order."""
        return tuple(dict.fromkeys(r.replace(CLASS_FIELD, class_name) for r in self.rejections))

    def draw_instruction(self, templates: tuple[str, ...], rng: random.Random) -> tuple[str, str]:
        """A random template of the list, filled with a random class name; returns (instruction, class it names)."""
        template = rng.choice(templates)
        if CLASS_FIELD not in template:
            return template, self.default_class
        class_name = rng.choice(self.class_names)
        return template.replace(CLASS_FIELD, class_name), class_name


@lru_cache(maxsize=256)
def _pattern(template: str) -> re.Pattern[str]:
    """Matches the template with any class name in its field; a field that comes again must name the same."""
    first, *rest = map(re.escape, template.split(CLASS_FIELD))
    return re.compile(first + "(?P<name>.+?)" + "(?P=name)".join(rest))


def parse_templates(text: str, *, name: str) -> Templates:
    """Parse a `templates.json`; raises BundleError naming the file and its first fault."""
    try:
        return Templates.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        raise BundleError(f"{name}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def read_templates(path: Path) -> Templates:
    """The templates of a bundle or checkpoint folder. Raises BundleError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: {error}") from None
    return parse_templates(text, name=str(path))


@lru_cache(maxsize=1)
def default_templates() -> Templates:
    """The templates shipped with agvas."""
    return parse_templates(templates_text(), name="templates.json")


def templates_text() -> str:
    """The shipped `templates.json` as text, for writing into checkpoints and bundles."""
    return files("agvas_runtime").joinpath("templates.json").read_text(encoding="utf-8")
