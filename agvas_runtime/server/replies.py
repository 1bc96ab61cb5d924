"""What the segmenter and the bundle say -> protocol messages. The way back is the client's."""

from collections.abc import Callable

import numpy as np
from google.protobuf.json_format import ParseDict
from numpy.typing import NDArray

from agvas_runtime import __version__, encoding
from agvas_runtime.bundle import MANIFEST, Bundle
from agvas_runtime.contours import corners, trace
from agvas_runtime.errors import InputError
from agvas_runtime.hashing import sha256_file
from agvas_runtime.maps import binarise
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.regions import Region
from agvas_runtime.result import AnswerKind, Result, Scores
from agvas_runtime.templates import read_templates
from agvas_runtime.verdict import Recipe, Verdict

VERDICTS = {
    Verdict.PASS: pb.VERDICT_PASS,
    Verdict.REJECT: pb.VERDICT_REJECT,
    Verdict.NO_ANSWER: pb.VERDICT_NO_ANSWER,
}
ANSWER_KINDS = {
    AnswerKind.SEGMENTED: pb.ANSWER_KIND_SEGMENTED,
    AnswerKind.REJECTED: pb.ANSWER_KIND_REJECTED,
    AnswerKind.OTHER: pb.ANSWER_KIND_OTHER,
}
VERIFIED = {"answer": pb.VERIFIED_ANSWER, "anchors": pb.VERIFIED_ANCHORS}
GATES = {"pass": pb.GATE_PASS, "reject": pb.GATE_REJECT, "stop": pb.GATE_STOP}

MOST_CORNERS = 1_000_000
"""Of a mask's polygons. A speckled mask of many megapixels has more, and drawing it would hold up all other answers."""

MASKS: dict[int, Callable[[NDArray[np.bool_]], bytes]] = {
    pb.MASK_FORMAT_PNG: encoding.mask_to_png,
    pb.MASK_FORMAT_PACKED_BITS: encoding.mask_to_bits,
    pb.MASK_FORMAT_COCO_RLE: encoding.mask_to_rle,
}
PROBABILITIES: dict[int, Callable[[NDArray[np.float32]], bytes]] = {
    pb.PROBABILITY_FORMAT_FLOAT32: encoding.probability_to_float32,
    pb.PROBABILITY_FORMAT_PNG16: encoding.probability_to_png16,
    pb.PROBABILITY_FORMAT_FLOAT16: encoding.probability_to_float16,
}


def result_reply(result: Result, recipe: Recipe) -> pb.SegmentResponse:
    """Everything of a result but its pictures, its model and the identity of its frame."""
    height, width = result.size
    return pb.SegmentResponse(
        status=pb.FRAME_STATUS_OK,
        verdict=VERDICTS[result.verdict],
        reason=result.reason,
        gate=gate(result.verdict, recipe),
        answer=result.answer,
        answer_kind=ANSWER_KINDS[result.answer_kind],
        confidence=result.confidence,
        scores=_scores(result.scores),
        width=width,
        height=height,
        defect_area_px=result.defect_area_px,
        regions=[_region(region) for region in result.regions],
        timings=[pb.StageTiming(stage=stage, ms=ms) for stage, ms in result.timings_ms.items()],
        tokens=result.tokens,
        proved_tokens=result.proved_tokens,
        one_pass=result.one_pass,
        verified=VERIFIED[result.verified],
        rechecked=result.rechecked,
        instruction=result.instruction,
    )


def no_result_reply(status: pb.FrameStatus, reason: str, on_no_answer: str) -> pb.SegmentResponse:
    """Everything that is known of a frame without a result but its identity; the gate does what its recipe says."""
    return pb.SegmentResponse(
        status=status,
        verdict=pb.VERDICT_NO_ANSWER,
        reason=reason,
        gate=GATES[on_no_answer],
        answer_kind=pb.ANSWER_KIND_OTHER,
    )


def gate(verdict: Verdict, recipe: Recipe) -> pb.Gate:
    """What the gate does with the part."""
    if verdict is Verdict.NO_ANSWER:
        return GATES[str(recipe.on_no_answer)]
    return pb.GATE_PASS if verdict is Verdict.PASS else pb.GATE_REJECT


def group_mask(
    index: int, probability: NDArray[np.float32], threshold: float, asked: pb.SegmentRequest
) -> pb.GroupMask:
    """A group's mask and map, float32 [H, W], in the formats that the request asks for.

    `threshold` is the one that holds for the frame: its recipe's, or else the bundle's. Raises InputError as
    `add_pictures` does.
    """
    height, width = probability.shape
    group = pb.GroupMask(index=index, width=width, height=height)
    add_pictures(group, binarise(probability, threshold), probability, asked)
    return group


def add_pictures(
    to: pb.SegmentResponse | pb.GroupMask,
    mask: NDArray[np.bool_],
    probability: NDArray[np.float32],
    asked: pb.SegmentRequest,
) -> None:
    """Put a mask, bool [H, W], and a map, float32 [H, W], into a message, in the formats that the request asks for.

    Raises InputError where a mask cannot be written that way.
    """
    mask_format = asked.mask_format or pb.MASK_FORMAT_PNG
    if mask_format == pb.MASK_FORMAT_POLYGONS:
        to.mask.format = mask_format
        to.mask.polygons.extend(_polygons(mask))
    elif mask_format in MASKS:
        to.mask.format, to.mask.data = mask_format, MASKS[mask_format](mask)
    if asked.probability_format in PROBABILITIES:
        to.probability.format = asked.probability_format
        to.probability.data = PROBABILITIES[asked.probability_format](probability)


def _polygons(mask: NDArray[np.bool_]) -> list[pb.Polygon]:
    if (count := corners(mask)) > MOST_CORNERS:
        found = f"found POLYGONS for a mask of {count} corners, expected at most {MOST_CORNERS}"
        raise InputError(f"mask_format: {found}; any other format has room for it")
    return [pb.Polygon(points=polygon.ravel().tolist()) for polygon in trace(mask)]


def model_reply(bundle: Bundle) -> pb.GetModelResponse:
    """What `GetModel` answers."""
    manifest, templates = bundle.manifest, read_templates(bundle.templates)
    reply = pb.GetModelResponse(
        model=pb.ModelIdentity(name=manifest.name, bundle_sha256=sha256_file(bundle.folder / MANIFEST)),
        licence=manifest.licence,
        checkpoint_sha256=manifest.source.checkpoint_sha256,
        preset=manifest.source.preset,
        random_weights=manifest.source.random_weights,
        graphs=[
            pb.Graph(
                name=name,
                file=graph.file,
                precision=graph.precision,
                opset=graph.opset,
                size_bytes=manifest.files[graph.file].size,
            )
            for name, graph in manifest.graphs.items()
        ],
        default_instruction=manifest.prompt.default_instruction,
        threshold=manifest.model.threshold,
        alpha=manifest.model.alpha,
        templates=pb.TemplateSummary(
            direct_instructions=len(set(templates.direct_instructions)),
            direct_answers=len(set(templates.direct_answers)),
            rejections=len(set(templates.rejections)),
            class_names=len(set(templates.class_names)),
        ),
        agvas_version=__version__,
    )
    ParseDict(manifest.model_dump(mode="json")["parity"], reply.parity)
    return reply


def _scores(scores: Scores) -> pb.Scores:
    return pb.Scores(
        p_answer=scores.p_answer,
        p_reject=scores.p_reject,
        p_other=scores.p_other,
        anomaly=scores.anomaly,
        min_margin=scores.min_margin,
        normality=scores.normality,
    )


def _region(region: Region) -> pb.Region:
    x0, y0, x1, y1 = region.box
    centroid_x, centroid_y = region.centroid
    return pb.Region(
        area_px=region.area_px,
        box=pb.Box(x0=x0, y0=y0, x1=x1, y1=y1),
        centroid_x=centroid_x,
        centroid_y=centroid_y,
        mean_score=region.mean_score,
        max_score=region.max_score,
    )
