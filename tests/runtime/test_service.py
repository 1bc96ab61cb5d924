"""`Segment`, `Explain`, `GetModel` of a whole server: settings, limits, deadlines, callers who go, engines that die."""

import io
import os
import shutil
import signal

import grpc
import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from agvas_runtime.bundle import Bundle, default_bundle_path, write_manifest
from agvas_runtime.client import Client
from agvas_runtime.errors import InputError
from agvas_runtime.modes import Mode
from agvas_runtime.proto.agvas.v1 import admin_pb2
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.server import replies
from agvas_runtime.server.engine.dispatch import MOST_STREAMS
from agvas_runtime.server.requests import MOST_SIDE
from agvas_runtime.verdict import Recipe
from agvas_runtime.writer import Decoding
from tests.runtime.live_server import DEFECT, IMAGES, NORMAL, WAIT_S, live_server, raw, request, until
from tools.fuzz_cases import BOMB, png_claiming

MOST_WAITING = MOST_STREAMS + 2
WRITTEN = Decoding(temperature=10, seed=8, max_new_tokens=300)
"""A long answer that does not end by itself."""
LONG = pb.Decoding(temperature=10, seed=8, max_new_tokens=300)
RECIPES = [
    Recipe(threshold=0.1),
    Recipe(threshold=1.0),
    Recipe(alpha=0.0, threshold=0.3),
    Recipe(alpha=1.0),
    Recipe(roi=(20, 10, 70, 60)),
    Recipe(roi=(60, 40, 5000, 5000), threshold=0.2, alpha=0.9, min_area_px=30, min_score=0.4, on_no_answer="stop"),
]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """The embedded bundle under two other names, so with other hashes."""
    root = tmp_path_factory.mktemp("bundles")
    for name in ("second", "third", "altered"):
        shutil.copytree(default_bundle_path(), root / name)
        write_manifest(root / name, Bundle.open(root / name).manifest.model_copy(update={"name": name}))
    (root / "altered" / "tokenizer.json").write_bytes(b"{}")
    return root


@pytest.fixture(scope="module")
def running(bundles):
    limits = {"max_waiting": MOST_WAITING, "max_megapixels": 1, "max_memory_mb": 16}
    with live_server(bundle_root=bundles, **limits) as live:
        yield live


@pytest.fixture
def live(running):
    running.as_new()
    yield running
    running.as_new()


def failure(call) -> tuple[grpc.StatusCode, str]:
    """How a call ends that fails."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()


def in_flight(live, **fields):
    """A frame that the engine, which stands still, has."""
    call = live.inspection.Segment.future(request(**fields))
    until(lambda: live.accepted == 1 and live.waiting == 0)
    return call


def png_of(image: np.ndarray) -> pb.Frame:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return pb.Frame(encoded=buffer.getvalue())


def swap(live, bundle: str, **fields) -> admin_pb2.SwapEvent:
    *_, last = live.admin.Swap(admin_pb2.SwapRequest(bundle=bundle, **fields), timeout=WAIT_S)
    return last


def measured(live, name: str) -> dict[str, float]:
    """A metric's samples by the values of their labels."""
    families = text_string_to_metric_families(live.server._render().decode())
    samples = (sample for family in families for sample in family.samples)
    return {" ".join(sample.labels.values()): sample.value for sample in samples if sample.name == name}


# What is asked


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_a_request_s_recipe_gives_what_the_segmenter_gives_with_it(live, segmenter, recipe):
    with Client(live.address) as client:
        reply = client.segment(IMAGES[DEFECT], recipe=recipe, probability="float32")
    result = segmenter.segment(IMAGES[DEFECT], recipe=recipe)
    assert (reply.verdict, reply.reason, reply.regions) == (result.verdict, result.reason, result.regions)
    assert np.array_equal(reply.mask, result.mask)
    assert np.array_equal(reply.probability, result.probability)


@pytest.mark.parametrize("mask", ["none", "png", "packed_bits", "coco_rle", "polygons"])
@pytest.mark.parametrize(
    ("probability", "off"), [("none", 0), ("float32", 0), ("png16", 1 / 65535), ("float16", 1 / 4096)]
)
def test_masks_and_maps_come_in_the_formats_that_are_asked_for(live, segmenter, mask, probability, off):
    with Client(live.address) as client:
        reply = client.segment(IMAGES[DEFECT], mask=mask, probability=probability)
    result = segmenter.segment(IMAGES[DEFECT])
    assert result.mask.any()
    assert (reply.mask is None) if mask == "none" else np.array_equal(reply.mask, result.mask)
    if probability == "none":
        assert reply.probability is None
    else:
        np.testing.assert_allclose(reply.probability, result.probability, rtol=0, atol=off)


def test_a_mask_of_too_many_corners_is_not_written_as_polygons_but_in_every_other_format(live, monkeypatch):
    monkeypatch.setattr(replies, "MOST_CORNERS", 3)
    asked = request(mask_format=pb.MASK_FORMAT_POLYGONS)
    code, text = failure(lambda: live.inspection.Segment(asked))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert text.startswith("mask_format: found POLYGONS for a mask of ")
    assert text.endswith(" corners, expected at most 3; any other format has room for it")
    asked.mode = pb.MODE_DIRECT
    assert failure(lambda: list(live.inspection.Explain(asked)))[0] is grpc.StatusCode.INVALID_ARGUMENT
    for other in (pb.MASK_FORMAT_PNG, pb.MASK_FORMAT_PACKED_BITS, pb.MASK_FORMAT_COCO_RLE):
        assert live.inspection.Segment(request(mask_format=other)).mask.data


def test_a_million_corners_are_the_limit(monkeypatch):
    speckled = np.zeros((1000, 1002), np.bool_)
    speckled[::2, ::2] = True  # 500 x 501 pixels that touch none
    with pytest.raises(InputError, match="found POLYGONS for a mask of 1002000 corners, expected at most 1000000"):
        replies._polygons(speckled)
    monkeypatch.setattr(replies, "MOST_CORNERS", 8)
    assert len(replies._polygons(speckled[:3, :2])) == 2
    with pytest.raises(InputError):
        replies._polygons(speckled[:3, :3])


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), 1e9])
def test_a_deadline_that_makes_no_sense_is_named(live, value):
    code, text = failure(lambda: live.inspection.Segment(request(deadline_ms=value)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert text.startswith(f"deadline_ms: found {value:g}, expected milliseconds above 0")


# Limits


def test_an_image_of_more_pixels_than_there_may_be_is_refused_by_its_header(live):
    bomb = pb.Frame(encoded=png_claiming(100_000, 100_000, BOMB))
    for asked, field in (
        (request(np.zeros((1000, 1001, 3), np.uint8)), "frame.raw: found 1001 x 1000 pixels, expected at most 1 mega"),
        (pb.SegmentRequest(frame=bomb), "frame.encoded: 100000 x 100000 pixels are more than the limit"),
    ):
        code, text = failure(lambda asked=asked: live.inspection.Segment(asked))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert text.startswith(field)
    assert live.inspection.Segment(request(np.zeros((1000, 1000, 3), np.uint8))).width == 1000
    assert live.arena.free_bytes == live.arena.size


def test_a_frame_whose_side_would_take_all_of_the_engine_s_memory_is_refused(live):
    row = png_of(np.zeros((1, MOST_SIDE + 1, 3), np.uint8))
    for frame, field in ((row, "encoded"), (raw(np.zeros((MOST_SIDE + 1, 1, 3), np.uint8)), "raw")):
        code, text = failure(lambda frame=frame: live.inspection.Segment(pb.SegmentRequest(frame=frame)))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert text.startswith(f"frame.{field}: found ")
        assert text.endswith(" pixels, expected at most 65536 along either side")
    for shape in ((1, MOST_SIDE, 3), (MOST_SIDE, 1, 3)):
        assert live.inspection.Segment(request(np.zeros(shape, np.uint8))).status == pb.FRAME_STATUS_OK


@pytest.mark.parametrize("field", ["camera_id", "part_id", "trigger_id"])
def test_an_id_that_is_too_long_is_refused(live, field):
    asked = request(identity=pb.FrameIdentity(**{field: "x" * 256}))
    assert getattr(live.inspection.Segment(asked).identity, field) == "x" * 256
    asked = request(identity=pb.FrameIdentity(**{field: "x" * 257}))
    for call in (live.inspection.Segment, lambda asked: list(live.inspection.Explain(asked))):
        code, text = failure(lambda call=call: call(asked))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert text == f"frame.identity.{field}: found 257 characters, expected at most 256"


def test_one_call_more_than_may_wait_is_refused_at_once_whichever_method_it_is(live):
    with live.frozen():
        calls = [live.inspection.Segment.future(request()) for _ in range(MOST_WAITING)]
        until(lambda: live.accepted == MOST_WAITING)
        for call in (live.inspection.Segment, lambda asked: next(live.inspection.Explain(asked))):
            code, text = failure(lambda call=call: call(request()))
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert text == f"{MOST_WAITING} frames are waiting for the engine already; send the next after an answer"
    assert {call.result().status for call in calls} == {pb.FRAME_STATUS_OK}
    live.inspection.Segment(request())


def test_a_frame_without_room_in_memory_is_refused_and_the_next_one_answered(live):
    with live.full_memory():
        for call in (live.inspection.Segment, lambda asked: next(live.inspection.Explain(asked))):
            code, text = failure(lambda call=call: call(request()))
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert text.startswith("no room for a frame of 120 x 90 pixels")
    live.inspection.Segment(request())


def test_what_a_message_holds_beyond_its_fields_is_not_kept(live):
    """A hundred requests with a megabyte of nothing each leave a server as small as it was."""
    nothing = b"\xba\x3e\x80\x80\x40" + bytes(1 << 20)  # field 999
    for number in range(3):
        recipe = pb.Recipe.FromString(pb.Recipe(min_area_px=number + 1).SerializeToString() + nothing)
        live.inspection.Segment(request(recipe=recipe))
        stream = live.open(defaults=pb.SegmentRequest(recipe=recipe))
        stream.send(request())
        assert stream.answers(1)[0].status == pb.FRAME_STATUS_OK
    kept = live.server._service._intake._kept
    assert len(repr(list(kept))) < 1 << 20
    assert sum(settings.message.ByteSize() for settings in kept.values()) < 1 << 20


# Deadlines, and callers who go


def test_a_frame_whose_deadline_passed_is_not_computed(live):
    with live.frozen():
        first = in_flight(live)
        code, text = failure(lambda: live.inspection.Segment(request(deadline_ms=50)))
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert text == "the deadline of 50 ms passed before an engine was free"
        assert live.waiting == 0
    assert first.result().status == pb.FRAME_STATUS_OK
    assert len(live.computed) == 1


@pytest.mark.parametrize("deadline_ms", [None, 50_000])
def test_a_frame_whose_caller_s_time_is_up_is_not_computed(live, deadline_ms):
    fields = {} if deadline_ms is None else {"deadline_ms": deadline_ms}
    with live.frozen():
        first = in_flight(live)
        code, _ = failure(lambda: live.inspection.Segment(request(**fields), timeout=0.2))
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        until(lambda: live.waiting == 0 and live.accepted == 1)
    first.result()
    assert len(live.computed) == 1


def test_an_explanation_whose_deadline_passed_is_not_begun(live):
    others = [live.inspection.Explain(request(decoding=LONG), timeout=WAIT_S) for _ in range(MOST_STREAMS)]
    for other in others:
        next(other)
    code, text = failure(lambda: list(live.inspection.Explain(request(deadline_ms=50))))
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert text == "the deadline of 50 ms passed before an engine was free"
    for other in others:
        other.cancel()


def test_frames_without_a_result_are_counted_for_the_operator_too(live):
    identity = pb.FrameIdentity(camera_id="counted")
    live.inspection.Segment(request(identity=identity))
    failure(lambda: live.inspection.Segment(request(identity=identity, mask_format=99)))
    failure(lambda: list(live.inspection.Explain(request(identity=identity, mask_format=99))))
    with live.full_memory():
        failure(lambda: live.inspection.Segment(request(identity=identity)))
    (state,) = (state for state in live.server.statistics().cameras if state.camera_id == "counted")
    assert dict(state.frames) == {"OK": 1, "INVALID": 2, "DROPPED": 1}
    assert state.verdicts["NO_ANSWER"] == 3


def test_a_frame_whose_caller_went_away_is_neither_computed_nor_counted(live):
    with live.frozen():
        first = in_flight(live)
        second = live.inspection.Segment.future(request(identity=pb.FrameIdentity(camera_id="gone")))
        until(lambda: live.waiting == 1)
        second.cancel()
        until(lambda: live.waiting == 0 and live.accepted == 1)
    first.result()
    assert len(live.computed) == 1
    assert "gone" not in {state.camera_id for state in live.server.statistics().cameras}


def test_a_caller_who_went_away_while_the_engine_has_his_frame_holds_no_place(live):
    with live.frozen():
        calls = [live.inspection.Segment.future(request()) for _ in range(MOST_WAITING)]
        until(lambda: live.accepted == MOST_WAITING)
        for call in calls:
            call.cancel()
        until(lambda: live.accepted == 0)
        until(lambda: live.server._service._calls._value == MOST_WAITING)
    assert live.inspection.Segment(request()).status == pb.FRAME_STATUS_OK


def test_an_answer_that_nobody_reads_on_leaves_its_places(live):
    for _ in range(MOST_WAITING + 1):
        events = live.inspection.Explain(request(decoding=LONG), timeout=WAIT_S)
        next(events)
        events.cancel()
        until(lambda: live.server._service._calls._value == MOST_WAITING)
    assert live.inspection.Segment(request()).status == pb.FRAME_STATUS_OK


# Engines that die, and others that take over


def test_a_frame_in_flight_when_its_engine_dies_is_answered_rightly(live, segmenter):
    with Client(live.address) as client, live.frozen() as before:
        call = in_flight(live, probability_format=pb.PROBABILITY_FORMAT_FLOAT32)
        live.kill()
        reply = call.result()
        assert live.pid != before
        result = segmenter.segment(IMAGES[DEFECT])
        assert np.array_equal(np.frombuffer(reply.probability.data, "<f4").reshape(90, 120), result.probability)
        assert client.segment(IMAGES[NORMAL]).answer == segmenter.segment(IMAGES[NORMAL]).answer


def test_a_frame_that_two_engines_die_on_is_unavailable(live, monkeypatch):
    once, told = iter([True]), live.pool._on_change

    def stand_still() -> None:
        if live.pool.ready and next(once, False):
            os.kill(live.pid, signal.SIGSTOP)
        told()

    monkeypatch.setattr(live.pool, "_on_change", stand_still)
    with live.frozen() as before:
        call = in_flight(live)
        live.kill()
    until(lambda: live.pool.ready and live.pid != before and live.waiting == 0)
    live.kill()
    assert failure(call.result) == (
        grpc.StatusCode.UNAVAILABLE,
        "the engine died twice on this frame, the last time: killed by signal 9",
    )


def test_an_explanation_goes_on_where_it_was_when_its_engine_dies(live, segmenter):
    asked = request(decoding=LONG, mode=pb.MODE_DESCRIBE)
    call = live.inspection.Explain(asked, timeout=WAIT_S)
    events = [next(call) for _ in range(5)]
    before = live.pid
    live.kill()
    events += list(call)
    assert live.pid != before
    result = segmenter.segment(IMAGES[DEFECT], mode=Mode.DESCRIBE, decoding=WRITTEN)
    assert "".join(event.text for event in events) == events[-1].result.answer == result.answer
    assert sum(event.HasField("result") for event in events) == 1


def test_an_explanation_is_lost_when_two_engines_die_on_it(live):
    call = live.inspection.Explain(request(decoding=LONG, mode=pb.MODE_DESCRIBE), timeout=WAIT_S)
    next(call)
    before = live.pid
    live.kill()
    while live.pid == before:  # the first one may still be of the killed engine
        next(call)
    live.kill()
    code, text = failure(lambda: list(call))
    assert code is grpc.StatusCode.UNAVAILABLE
    assert text == "the engine died twice on this frame, the last time: killed by signal 9"


def test_batches_are_counted_as_they_were_segmented(live):
    live.pool.facts.ms_per_frame.update({3: 0.0})  # as if three at once cost nothing
    before = measured(live, "agvas_batch_size_bucket"), measured(live, "agvas_batch_size_sum")[""]
    with live.frozen():
        calls = [in_flight(live)]
        calls += [live.inspection.Segment.future(request()) for _ in range(3)]
        until(lambda: live.waiting == 3)
    for call in calls:
        call.result()
    del live.pool.facts.ms_per_frame[3]
    buckets = measured(live, "agvas_batch_size_bucket")
    assert {size: count - before[0][size] for size, count in buckets.items() if size in ("1.0", "2.0", "4.0")} == {
        "1.0": 1,
        "2.0": 1,
        "4.0": 2,
    }
    assert measured(live, "agvas_batch_size_sum")[""] - before[1] == 4


def test_after_a_swap_get_model_and_replies_name_the_other_bundle_and_swaps_are_counted(live, bundles):
    assert swap(live, "second", dry_run=True).phase == admin_pb2.SwapEvent.PHASE_COMPARED
    assert live.inspection.GetModel(pb.GetModelRequest()).model.name != "second"
    assert swap(live, "second").phase == admin_pb2.SwapEvent.PHASE_SWITCHED
    (named,) = measured(live, "agvas_bundle_info")
    assert named.startswith("second ")
    assert failure(lambda: swap(live, "altered"))[0] is grpc.StatusCode.INVALID_ARGUMENT
    refused = swap(live, "third", shadow_frames=1, shadow_timeout_s=0.01)
    assert refused.phase == admin_pb2.SwapEvent.PHASE_REFUSED
    model = live.inspection.GetModel(pb.GetModelRequest()).model
    assert model.name == "second"
    assert live.inspection.Segment(request()).model == model
    assert list(live.inspection.Explain(request()))[-1].result.model == model
    assert live.server.statistics().model == model
    assert measured(live, "agvas_swaps_total") == {"compared": 1.0, "switched": 1.0, "refused": 2.0}


def test_an_explanation_that_waited_while_the_bundle_was_swapped_names_the_one_that_wrote_it(live):
    """All places are taken when it comes, and those of the next engine free."""
    asked = request(decoding=LONG, mode=pb.MODE_DESCRIBE)
    others = [live.inspection.Explain(asked, timeout=WAIT_S) for _ in range(MOST_STREAMS)]
    for other in others:
        next(other)
    late = live.inspection.Explain(request(), timeout=WAIT_S)
    until(lambda: live.arena.size - live.arena.free_bytes > MOST_STREAMS * IMAGES[0].size / 3 * 8)
    with live.frozen():  # so that none of the others ends before
        assert swap(live, "third").phase == admin_pb2.SwapEvent.PHASE_SWITCHED
    assert list(late)[-1].result.model.name == "third"
    for other in others:
        other.cancel()


def test_a_swap_in_the_midst_of_streams_loses_no_frame(live):
    stream = live.open(policy=pb.QUEUE_POLICY_BLOCK)
    stream.send(*[request(number % len(IMAGES)) for number in range(10)])
    assert swap(live, "second").phase == admin_pb2.SwapEvent.PHASE_SWITCHED
    stream.send(*[request(number % len(IMAGES)) for number in range(10)])
    answers = stream.answers(20)
    assert {answer.status for answer in answers} == {pb.FRAME_STATUS_OK}
    assert answers[-1].model.name == "second"
