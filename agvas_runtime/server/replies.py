"""What the segmenter and the bundle say -> protocol messages. The way back is the client's."""

from google.protobuf.json_format import ParseDict

from agvas_runtime import __version__, encoding
from agvas_runtime.bundle import MANIFEST, Bundle
from agvas_runtime.errors import InputError
from agvas_runtime.hashing import sha256_file
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
GATES = {"pass": pb.GATE_PASS, "reject": pb.GATE_REJECT, "stop": pb.GATE_STOP}


def result_reply(result: Result, recipe: Recipe) -> pb.SegmentResponse:
    """Everything of a result but its pictures, its model and the identity of its frame."""
    height, width = result.size
    return pb.SegmentResponse(
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
    )


def gate(verdict: Verdict, recipe: Recipe) -> pb.Gate:
    """What the gate does with the part."""
    if verdict is Verdict.NO_ANSWER:
        return GATES[str(recipe.on_no_answer)]
    return pb.GATE_PASS if verdict is Verdict.PASS else pb.GATE_REJECT


def check_formats(request: pb.SegmentRequest) -> None:
    """Raise InputError for a format of mask or probability map that the protocol does not know."""
    if request.mask_format not in pb.MaskFormat.values():
        raise InputError(f"mask_format: found {request.mask_format}, expected NONE, PNG or PACKED_BITS")
    if request.probability_format not in pb.ProbabilityFormat.values():
        raise InputError(f"probability_format: found {request.probability_format}, expected NONE, FLOAT32 or PNG16")


def add_pictures(reply: pb.SegmentResponse, result: Result, request: pb.SegmentRequest) -> None:
    """Put mask and probability map into the reply, in the formats the request asks for."""
    if request.mask_format == pb.MASK_FORMAT_PACKED_BITS:
        reply.mask.format, reply.mask.data = request.mask_format, encoding.mask_to_bits(result.mask)
    elif request.mask_format != pb.MASK_FORMAT_NONE:
        reply.mask.format, reply.mask.data = pb.MASK_FORMAT_PNG, encoding.mask_to_png(result.mask)
    if request.probability_format == pb.PROBABILITY_FORMAT_FLOAT32:
        data = encoding.probability_to_float32(result.probability)
        reply.probability.format, reply.probability.data = request.probability_format, data
    elif request.probability_format == pb.PROBABILITY_FORMAT_PNG16:
        data = encoding.probability_to_png16(result.probability)
        reply.probability.format, reply.probability.data = request.probability_format, data


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
