"""The rule that turns an answer and its regions into PASS, REJECT or NO_ANSWER. It knows no tensors and no files."""

from collections.abc import Sequence
from enum import Enum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from agvas_runtime.regions import Region

LARGEST_AREA = 2**32 - 1
"""Of what a message has room for, pixels."""


class Verdict(str, Enum):
    """What the line does with a part. NO_ANSWER is no result: the recipe says what the gate does then."""

    PASS = "PASS"
    REJECT = "REJECT"
    NO_ANSWER = "NO_ANSWER"


class AnswerKind(str, Enum):
    """What the model's text is."""

    SEGMENTED = "segmented"
    """It holds the anchors, so there is an anomaly map."""
    REJECTED = "rejected"
    """A rejection template that reached its end: the model sees no anomaly."""
    OTHER = "other"
    """Any other text, or one that was cut before its end."""


class Recipe(BaseModel):
    """What counts as a defect on this line, and what the gate does where there is no result."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_area_px: int = Field(default=1, ge=1, le=LARGEST_AREA)
    """Smallest defect, in pixels of the original image."""
    min_score: float = Field(default=0.0, ge=0, le=1)
    """Lowest mean anomaly probability of a region that counts as a defect."""
    on_no_answer: Literal["reject", "pass", "stop"] = "reject"
    """What the gate does with NO_ANSWER."""
    threshold: float | None = Field(default=None, ge=0, le=1)
    """A pixel above it belongs to the mask; the bundle's where None."""
    alpha: float | None = Field(default=None, ge=0, le=1)
    """How much the map of [SEG] weighs beside that of [ANO] and [NOR]; the bundle's where None."""
    roi: tuple[int, int, int, int] | None = None
    """(x0, y0, x1, y1) in pixels of the upright frame, x1 and y1 just outside: nothing outside it belongs to the map or
    the mask. The whole frame where None."""

    @field_validator("roi")
    @classmethod
    def _has_an_inside(cls, roi: tuple[int, int, int, int] | None) -> tuple[int, int, int, int] | None:
        if roi is not None and not (0 <= roi[0] < roi[2] and 0 <= roi[1] < roi[3]):
            raise PydanticCustomError("roi", "expected x0 < x1 and y0 < y1, none of them negative")
        return roi

    def threshold_or(self, usual: float) -> float:
        """The threshold, or the bundle's usual one."""
        return usual if self.threshold is None else self.threshold

    def alpha_or(self, usual: float) -> float:
        """Alpha, or the bundle's usual one."""
        return usual if self.alpha is None else self.alpha

    def accepts(self, region: Region) -> bool:
        """Whether this region is large and certain enough to be a defect."""
        return region.area_px >= self.min_area_px and region.mean_score >= self.min_score


def judge(answer_kind: AnswerKind | str, regions: Sequence[Region], recipe: Recipe) -> tuple[Verdict, str]:
    """The verdict and its reason in one sentence. Raises ValueError for an unknown answer kind."""
    kind = AnswerKind(answer_kind)
    if kind is AnswerKind.REJECTED:
        return Verdict.PASS, "the model finds no anomaly"
    if kind is AnswerKind.OTHER:
        return Verdict.NO_ANSWER, "the answer is neither a segmentation nor a finished rejection"
    where = "" if recipe.roi is None else " inside ({}, {}, {}, {})".format(*recipe.roi)
    if not regions:
        return Verdict.PASS, f"the anomaly map holds no region above the threshold{where}"
    defects = sum(recipe.accepts(region) for region in regions)
    found = f"{len(regions)} region{'' if len(regions) == 1 else 's'}{where}"
    rule = f"at least {recipe.min_area_px} px, mean score at least {recipe.min_score:g}"
    if not defects:
        return Verdict.PASS, f"none of {found} is a defect by the recipe ({rule})"
    return Verdict.REJECT, f"{defects} of {found} counted as defect by the recipe ({rule})"
