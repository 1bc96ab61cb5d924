"""What travels between server and client: formats of masks and maps, a recipe's settings, frames without a result."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from scipy import ndimage

from agvas_runtime.asked import MaskChoice, ProbabilityChoice
from agvas_runtime.contours import fill
from agvas_runtime.maps import AnomalyMap
from agvas_runtime.modes import Reading
from agvas_runtime.outcome import Stopwatch, finish
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.result import AnswerKind, Result, Scores
from agvas_runtime.scan_wire import event_from
from agvas_runtime.server import replies
from agvas_runtime.verdict import Recipe, Verdict
from agvas_runtime.wire import SegmentReply, recipe_to, reply_from

RECIPE = Recipe(threshold=0.6)
SCORES = Scores(0.75, 0.25, 0.0, anomaly=0.75, min_margin=1.0)
RAMPS = np.random.default_rng(0).random((2, 61, 83))
GROUPS = tuple(ndimage.gaussian_filter(each, 2).astype(np.float32) for each in RAMPS)
MAPS = tuple((each - each.min()) / (each.max() - each.min()) for each in GROUPS)
ROUNDING = {"float32": 0, "png16": 0.5001 / 65535, "float16": 2**-12}


def result_of(*maps: np.ndarray) -> Result:
    groups = maps if len(maps) > 1 else ()
    reading = Reading(AnswerKind.SEGMENTED)
    found = AnomalyMap.of(np.maximum.reduce(maps))
    return finish(found, reading, "It is.", SCORES, 0.5, RECIPE, Stopwatch(), group_maps=groups)


def travelled(result: Result, mask: str, probability: str) -> SegmentReply:
    """The result as the client has it, by way of bytes."""
    asked = pb.SegmentRequest(
        mask_format=f"MASK_FORMAT_{mask.upper()}", probability_format=f"PROBABILITY_FORMAT_{probability.upper()}"
    )
    message = replies.result_reply(result, RECIPE)
    replies.add_pictures(message, result.mask, result.probability, asked)
    message.groups.extend(replies.group_mask(i, each, 0.6, asked) for i, each in enumerate(result.group_maps))
    return reply_from(pb.SegmentResponse.FromString(message.SerializeToString()), 1.0)


@pytest.mark.parametrize("choice", [choice for choice in get_args(MaskChoice) if choice != "none"])
def test_a_mask_is_the_same_array_however_it_travels(choice):
    result = result_of(*MAPS)
    reply = travelled(result, choice, "none")
    assert reply.mask.dtype == np.bool_
    np.testing.assert_array_equal(reply.mask, result.mask)
    assert [group.index for group in reply.groups] == [0, 1]
    for group, probability in zip(reply.groups, MAPS, strict=True):
        np.testing.assert_array_equal(group.mask, probability > np.float32(0.6))
    assert (reply.polygons is None) == (choice != "polygons")


@pytest.mark.parametrize("choice", [choice for choice in get_args(ProbabilityChoice) if choice != "none"])
def test_a_map_is_the_same_up_to_its_formats_rounding(choice):
    result = result_of(*MAPS)
    reply = travelled(result, "none", choice)
    assert reply.probability.dtype == np.float32
    for found, expected in ((reply, result.probability), *zip(reply.groups, MAPS, strict=True)):
        assert np.abs(found.probability - expected).max() <= ROUNDING[choice]


def test_what_was_not_asked_for_is_none():
    reply = travelled(result_of(*MAPS), "none", "none")
    for each in (reply, *reply.groups):
        assert (each.mask, each.probability, each.polygons) == (None, None, None)


def test_polygons_are_kept_beside_the_mask():
    result = result_of(*MAPS)
    reply = travelled(result, "polygons", "none")
    assert reply.polygons
    np.testing.assert_array_equal(fill(reply.polygons, result.size), result.mask)
    for group in reply.groups:
        np.testing.assert_array_equal(fill(group.polygons, result.size), group.mask)


@pytest.mark.parametrize("choice", [choice for choice in get_args(MaskChoice) if choice != "none"])
def test_an_empty_mask_travels_too(choice):
    reply = travelled(result_of(np.zeros((9, 7), np.float32)), choice, "none")
    assert reply.mask.shape == (9, 7)
    assert not reply.mask.any()
    assert reply.polygons == (() if choice == "polygons" else None)


def test_a_mask_in_no_named_format_is_a_png():
    result = result_of(MAPS[0])
    message = replies.result_reply(result, RECIPE)
    replies.add_pictures(message, result.mask, result.probability, pb.SegmentRequest())
    assert message.mask.data.startswith(b"\x89PNG")
    assert not message.HasField("probability")


def test_a_result_says_that_it_is_one():
    result = result_of(MAPS[0])
    reply = travelled(result, "none", "none")
    assert (reply.status, reply.index, reply.recipe_name) == ("ok", 0, "")
    assert reply.answer_kind is AnswerKind.SEGMENTED
    assert reply.scores == SCORES


def test_a_message_without_a_status_is_a_result():
    message = replies.result_reply(replace(result_of(MAPS[0]), tokens=3), RECIPE)
    message.ClearField("status")
    reply = reply_from(message, 1.0)
    assert (reply.status, reply.tokens) == ("ok", 3)


@pytest.mark.parametrize("status", ["dropped", "expired", "invalid", "engine_failed", "refused"])
@pytest.mark.parametrize("gate", ["reject", "pass", "stop"])
def test_a_frame_without_a_result_says_what_became_of_it_and_what_the_gate_does(status, gate):
    number = pb.FrameStatus.Value(f"FRAME_STATUS_{status.upper()}")
    message = replies.no_result_reply(number, "recipe.roi: found nonsense", gate)
    message.index, message.recipe_name, message.identity.part_id = 7, "lid", "p1"
    reply = reply_from(pb.SegmentResponse.FromString(message.SerializeToString()), 1.0)
    assert reply.status == status
    assert (reply.verdict, reply.reason, reply.gate) == (Verdict.NO_ANSWER, "recipe.roi: found nonsense", gate)
    assert (reply.index, reply.recipe_name, reply.identity.part_id) == (7, "lid", "p1")
    assert reply.answer_kind is AnswerKind.OTHER
    assert (reply.size, reply.mask, reply.probability, reply.regions) == ((0, 0), None, None, ())
    assert reply.scores == Scores.unknown(0.0)


@pytest.mark.parametrize(("field", "number"), [("status", 9), ("verdict", 9), ("verdict", 0), ("gate", 9), ("gate", 0)])
def test_a_value_that_only_a_newer_server_knows_is_no_answer_and_its_gate_is_not_taken(field, number):
    values = {"status": pb.FRAME_STATUS_OK, "verdict": pb.VERDICT_PASS, "gate": pb.GATE_PASS, field: number}
    reply = reply_from(pb.SegmentResponse(**values, reason="the colour is off", index=7), 1.0)
    assert (reply.verdict, reply.gate, reply.index) == (Verdict.NO_ANSWER, None, 7)
    assert reply.status == ("unknown" if field == "status" else "ok")
    found = "found status {status}, verdict {verdict}, gate {gate}".format(**values)
    told = "expected values that this client knows; the server's reason: the colour is off"
    assert reply.reason == f"{found}, {told}"


def test_a_newer_kind_of_answer_changes_nothing_about_the_part():
    message = replies.result_reply(result_of(MAPS[0]), RECIPE)
    known = reply_from(message, 1.0)
    message.answer_kind = message.verified = 9
    reply = reply_from(message, 1.0)
    assert (reply.answer_kind, reply.verified) == (AnswerKind.OTHER, "anchors")
    assert (reply.verdict, reply.gate, reply.reason) == (known.verdict, known.gate, known.reason)


@pytest.mark.parametrize(
    ("status", "gate", "expected"),
    [(9, pb.GATE_PASS, ("unknown", None)), (pb.FRAME_STATUS_DROPPED, 9, ("dropped", None)), (1, 0, ("ok", None))],
)
def test_skipped_rows_of_a_newer_server_have_no_gate(status, gate, expected):
    skipped = event_from(pb.ScanResponse(skipped=pb.ScanSkipped(rows=3, status=status, gate=gate)))
    assert (skipped.status, skipped.gate) == expected
    assert skipped.rows == 3


def test_what_is_set_in_a_recipe_travels():
    recipe = Recipe(min_area_px=3, min_score=0.25, on_no_answer="stop", threshold=0.0, alpha=1.0, roi=(1, 2, 2**40, 4))
    message = recipe_to(recipe)
    assert (message.min_area_px, message.min_score, message.threshold, message.alpha) == (3, 0.25, 0, 1)
    assert message.on_no_answer == pb.NO_ANSWER_ACTION_STOP
    assert message.HasField("threshold")
    assert message.roi == pb.Box(x0=1, y0=2, x1=2**32 - 1, y1=4)


def test_what_is_not_set_in_a_recipe_is_left_to_the_servers():
    assert recipe_to(Recipe()) == pb.Recipe()
    assert recipe_to(Recipe(threshold=0.5, alpha=None)) == pb.Recipe(threshold=0.5)
