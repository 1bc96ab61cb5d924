"""A web's defects, once each and in its own coordinates, whatever blocks it comes in."""

import grpc
import numpy as np
import pytest

from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from tests.runtime.scan.web import ROWS, TILING, WEB, in_blocks, opening, place, rows


@pytest.mark.parametrize("height", [1, 37, 96, 200, ROWS])
def test_defects_are_those_of_the_tiles_put_together_once_each(live, scan, expected, height):
    stream = scan()
    stream.send(*in_blocks(height))
    stream.finish()
    events = stream.all("defect", "summary")
    *defects, summary = events
    assert [each.index for each in defects] == list(range(len(defects)))
    found = sorted(defects, key=lambda each: (each.first_row, each.x0))
    assert [place(each) for each in found] == [place(each) for each in expected]
    for one, other in zip(found, expected, strict=True):
        assert (one.centroid_x, one.centroid_row) == pytest.approx((other.centroid_x, other.centroid_row))
        assert (one.mean_score, one.max_score) == pytest.approx((other.mean_score, other.max_score))
        assert (one.begins_cut, one.ends_cut, one.HasField("mm"), one.HasField("encoder_count")) == (False,) * 4
    assert (summary.rows, summary.rows_skipped, summary.defects, summary.ignored) == (ROWS, 0, len(defects), 0)
    assert summary.model.name == "agvas-tiny"
    assert summary.rows_per_s > 0
    assert summary.tiles == 14 == len(live.computed)
    assert stream.call.code() is grpc.StatusCode.OK


def test_a_defect_is_reported_before_the_web_ends_and_progress_says_which_rows_are_settled(scan, expected):
    stream = scan()
    stream.send(WEB[:300])
    first = progress = stream.next("progress")
    assert first.rows_settled == TILING.step - 1  # a defect that touches the last row may go on in the next band
    while progress.rows_settled < 200:
        assert progress.rows_received == 300
        progress = stream.next("progress")
    stream.finish()
    last = [*stream.all("progress", "summary")]
    assert [each.rows_settled for each in last[:-1]] == sorted(each.rows_settled for each in last[:-1])
    assert last[-2].rows_settled == last[-1].rows == 300


def test_millimetres_and_encoder_counts_come_with_the_defects_where_they_are_given(scan, expected):
    stream = scan(mm_per_pixel=0.1, mm_per_row=0.25)
    for number, block in enumerate(in_blocks(90)):
        stream.send(rows(block, encoder_count=-1000 + number))
    stream.finish()
    found = sorted(stream.all("defect"), key=lambda each: (each.first_row, each.x0))
    for one, other in zip(found, expected, strict=True):
        assert one.encoder_count == -1000 + other.first_row // 90
        assert (one.mm.x0, one.mm.x1) == pytest.approx((other.x0 * 0.1, other.x1 * 0.1))
        assert (one.mm.y0, one.mm.y1) == pytest.approx((other.first_row * 0.25, (other.last_row + 1) * 0.25))
        assert one.mm.centroid_x == pytest.approx((other.centroid_x + 0.5) * 0.1)
        assert one.mm.centroid_y == pytest.approx((other.centroid_row + 0.5) * 0.25)
        assert one.mm.area == pytest.approx(other.area_px * 0.025)


def test_the_recipe_holds_for_whole_defects(scan, expected):
    stream = scan(camera_id="large")
    stream.send(WEB)
    stream.finish()
    *defects, summary = stream.all("defect", "summary")
    large = [each for each in expected if each.area_px >= 200]
    assert sorted(place(each) for each in defects) == sorted(place(each) for each in large)
    assert 0 < len(large) < len(expected)
    assert (summary.recipe_name, summary.ignored) == ("large", len(expected) - len(large))


@pytest.mark.parametrize(
    ("name", "dtype"), [("MONO8", np.uint8), ("MONO12", "<u2"), ("MONO16", "<u2"), ("BGR8", np.uint8)]
)
def test_rows_of_other_formats_with_a_stride_are_the_same_web(scan, name, dtype):
    grey = WEB[..., 0]
    as_rgb = np.repeat(grey[..., None], 3, axis=2)
    scale = {"MONO12": 4095 / 255, "MONO16": 257}.get(name, 1)
    pixels = as_rgb if name == "BGR8" else np.rint(grey * float(scale)).astype(dtype)
    padded = np.pad(pixels.reshape(ROWS, -1).view(np.uint8), ((0, 0), (0, 5)), constant_values=7)
    places = []
    for first, block in (
        (opening(), rows(as_rgb)),
        (opening(pixel_format=pb.PixelFormat.Value(f"PIXEL_FORMAT_{name}")), rows(padded, stride=padded.shape[1])),
    ):
        stream = scan(first)
        stream.send(block)
        stream.finish()
        places.append([place(each) for each in stream.all("defect")])
    assert places[0] == places[1] != []
