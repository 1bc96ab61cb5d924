"""A large area frame through a segmenter, tile by tile: `agvas-runtime segment --tile`."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from agvas_runtime.frames import AnyImage, decoded
from agvas_runtime.maps import AnomalyMap, window
from agvas_runtime.modes import Request
from agvas_runtime.regions import find_regions
from agvas_runtime.result import AnswerKind, Result
from agvas_runtime.segmenter import Segmenter
from agvas_runtime.tiling import Mask, Pixels, Scores, Tiling, segment_tiled
from agvas_runtime.verdict import Recipe, Verdict, judge
from agvas_runtime.writer import Decoding


def segment_in_tiles(
    segmenter: Segmenter,
    image: AnyImage,
    tiling: Tiling,
    request: Request = Request(),
    recipe: Recipe = Recipe(),
    decoding: Decoding = Decoding(),
) -> Result:
    """Segment one image tile by tile, without the tiles that lie outside of the region of interest.

    Map, mask and regions are those of the whole image, the times the sums of all tiles' times. What one answer has,
    its text, scores and tokens, is that of the most anomalous tile. Where a tile has no answer and no other one a
    defect, the verdict is NO_ANSWER.

    Raises what `Segmenter.segment` does.
    """
    pixels, results = decoded(image), list[Result]()
    height, width = pixels.shape[:2]
    roi = window(recipe.roi, (height, width))
    of_tile = recipe.model_copy(update={"roi": None})

    def segment(tile: Pixels) -> tuple[Mask, Scores]:
        results.extend(segmenter.segment_batch([tile], request, of_tile, decoding=decoding))
        return results[-1].mask, results[-1].probability

    mask, score = segment_tiled(pixels, segment, tiling, within=roi)
    outside = np.ones_like(mask)
    outside[roi] = False
    mask[outside], score[outside] = False, 0
    regions = find_regions(mask, score)
    worst = max(results, key=lambda result: (result.answer_kind is AnswerKind.SEGMENTED, result.scores.anomaly))
    verdict, reason = judge(worst.answer_kind, regions, recipe)
    unanswered = [result for result in results if result.verdict is Verdict.NO_ANSWER]
    if unanswered and verdict is not Verdict.REJECT:
        verdict = Verdict.NO_ANSWER
        reason = f"{len(unanswered)} of {len(results)} tiles have no answer, the first one: {unanswered[0].reason}"
    times: Counter[str] = Counter()
    for result in results:
        times.update(result.timings_ms)
    return replace(
        worst,
        verdict=verdict,
        reason=reason,
        map=AnomalyMap.of(score),
        mask=mask,
        regions=regions,
        timings_ms=dict(times),
        group_maps=(),
    )
