"""What the segmenter returns for one image: verdict, answer, map, mask, regions, scores and the time of every stage."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.maps import AnomalyMap
from agvas_runtime.regions import Region
from agvas_runtime.verdict import AnswerKind as AnswerKind
from agvas_runtime.verdict import Verdict as Verdict


@dataclass(frozen=True)
class Scores:
    """Probabilities of the answers, each the product of the tokens' probabilities along its path in the trie.

    In describe modes only the rejections are known sentences, in others only the answers: then the rest stands for the
    kind that is not. Where the model is not asked for anomalies, or an engine does not compute them, they are those of
    `Scores.unknown`.
    """

    p_answer: float
    """Sum over the known answers that hold the anchors; of an explanation's, up to its free text."""
    p_reject: float
    """Sum over the rejections."""
    p_other: float
    """The rest: every text that is in neither list."""
    anomaly: float
    """p_answer / (p_answer + p_reject): the image-level anomaly score."""
    min_margin: float
    """Smallest gap between the best two logits along the answer; near zero, rounding could flip it."""

    @property
    def normality(self) -> float:
        """p_reject / (p_answer + p_reject): the image-level normality score."""
        return 1 - self.anomaly

    @classmethod
    def unknown(cls, min_margin: float) -> "Scores":
        """No probability of any template: everything is other, the anomaly score undecided."""
        return cls(p_answer=0.0, p_reject=0.0, p_other=1.0, anomaly=0.5, min_margin=min_margin)


@dataclass(frozen=True)
class Result:
    """One image's result. The map and the mask have the size of the upright original image."""

    verdict: Verdict
    reason: str
    answer: str
    """The decoded text with its anchors, such as "Sure, it is [NOR][ANO][SEG]."."""
    answer_kind: AnswerKind
    map: AnomalyMap
    """What `probability` comes from."""
    mask: NDArray[np.bool_]
    """Anomaly mask, bool [H,W]: probability above the threshold."""
    regions: tuple[Region, ...]
    """Connected parts of the mask, largest first."""
    scores: Scores
    timings_ms: dict[str, float]
    """Milliseconds of decode, preprocess (an instruction's first planning is in it), encoders, spam, llm, text (what is
    written behind the pass), decoder, postprocess, total; of frames that were segmented together, those of all."""
    instruction: str = ""
    """What the model was asked, as it read it."""
    group_maps: tuple[NDArray[np.float32], ...] = ()
    """Where the answer holds several groups of anchors, each one's map, float32 [H,W]; `probability` is their pixelwise
    maximum."""
    tokens: int = 0
    """Tokens that were written, without the end token."""
    proved_tokens: int = 0
    """How many of them, from the first on, one pass proved; the others were decoded one by one."""
    one_pass: bool = False
    """Whether the pass alone gave the answer, to its end or as far as it was asked for."""
    verified: Literal["answer", "anchors"] = "answer"
    """How far the answer was read: to its end, or, for a request without text, up to the first group of anchors."""
    rechecked: bool = False
    """Whether plain decoding read the answer again, see `Decoding.strict_below`."""
    threshold: float = 0.5
    """What a pixel of the mask, and of a group's, is above: the recipe's threshold or else the bundle's."""

    @property
    def probability(self) -> NDArray[np.float32]:
        """Anomaly probability, float32 [H,W] in [0,1]; zeros when the model rejects, and outside the recipe's ROI.

        What the mask did not need of it is computed when it is first asked for.
        """
        return self.map.whole

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the upright original image."""
        return self.map.size

    @property
    def defect_area_px(self) -> int:
        """Pixels of the mask."""
        return int(np.count_nonzero(self.mask))

    @property
    def confidence(self) -> float:
        """The anomaly score where the answer segments, its complement where it rejects, 0 for any other; in [0,1]."""
        if self.answer_kind is AnswerKind.OTHER:
            return 0.0
        return self.scores.anomaly if self.answer_kind is AnswerKind.SEGMENTED else 1 - self.scores.anomaly
