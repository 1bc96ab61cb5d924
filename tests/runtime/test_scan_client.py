"""`Client.scan`, and the same tiling for one large image: `agvas-runtime segment --tile`."""

import json

import numpy as np
import pytest
from PIL import Image

from agvas_runtime.client import Client
from agvas_runtime.errors import InputError
from agvas_runtime.regions import find_regions
from agvas_runtime.scan_wire import ScanDefect, ScanProgress, ScanSkipped, ScanSummary, WebSettings
from agvas_runtime.segment_tiles import segment_in_tiles
from agvas_runtime.tiling import Tiling, segment_tiled
from agvas_runtime.verdict import AnswerKind, Recipe, Verdict
from agvas_runtime.writer import Decoding
from tests.runtime.live_server import DEFECT, IMAGES, NORMAL

WEB = np.concatenate([np.tile(IMAGES[number], (1, 2, 1)) for number in (DEFECT, NORMAL, DEFECT)])
ROWS, WIDTH, _ = WEB.shape
SETTINGS = WebSettings(WIDTH, "RGB8", "line", tile_width=128, tile_height=96, overlap=16)
TILING = Tiling(96, 128, 16)


def test_a_client_gets_defects_progress_skipped_rows_and_the_summary(client: Client):
    beats = []
    blocks = [WEB[:20], (WEB[20:], 42)]
    events = list(client.scan(SETTINGS, iter(blocks), on_heartbeat=beats.append, recipe=Recipe(min_area_px=5)))
    assert beats[0] == ""
    assert {type(event) for event in events} == {ScanDefect, ScanProgress, ScanSummary}
    *_, progress, summary = events
    assert (summary.rows, summary.rows_skipped, summary.model_name) == (ROWS, 0, "agvas-tiny")
    assert progress.rows_settled == ROWS
    defects = [event for event in events if isinstance(event, ScanDefect)]
    assert len(defects) == summary.defects > 0
    assert all(each.area_px >= 5 and each.mm is None for each in defects)
    assert {each.encoder_count for each in defects} == {None, 42}


def test_a_client_is_told_of_rows_that_were_skipped(client: Client):
    web = WebSettings(WIDTH, "RGB8", mm_per_pixel=0.5, mm_per_row=2.0)
    decoding = Decoding(max_new_tokens=1)
    (skipped, progress, *_, summary) = client.scan(
        web, [WEB[:64]], decoding=decoding, recipe=Recipe(on_no_answer="stop")
    )
    assert isinstance(skipped, ScanSkipped)
    assert (skipped.status, skipped.gate, skipped.rows, skipped.x1) == ("ok", "stop", 64, WIDTH)
    assert progress.rows_skipped == summary.rows_skipped == 64


def test_millimetres_come_as_they_were_asked_for(client: Client):
    web = WebSettings(WIDTH, "RGB8", tile_width=128, tile_height=96, mm_per_pixel=0.5, mm_per_row=2.0)
    defect = next(event for event in client.scan(web, [WEB]) if isinstance(event, ScanDefect))
    assert defect.mm is not None
    assert (defect.mm.x0, defect.mm.y1, defect.mm.area) == (
        defect.x0 * 0.5,
        (defect.last_row + 1) * 2.0,
        defect.area_px * 1.0,
    )


def test_what_the_server_and_what_the_camera_say_is_wrong_is_raised(client: Client):
    with pytest.raises(InputError, match=r"open\.overlap: found 500, expected 0 to 256"):
        list(client.scan(WebSettings(WIDTH, overlap=500), [WEB]))

    def broken():
        yield WEB[:10]
        raise OSError("the camera is unplugged")

    with pytest.raises(OSError, match="unplugged"):
        list(client.scan(SETTINGS, broken()))
    with pytest.raises(InputError, match="rows: found uint8"):
        list(client.scan(SETTINGS, [WEB[:, :7]]))


# One large image


def test_a_large_image_in_tiles_has_one_mask_and_regions_of_its_own(segmenter):
    result = segment_in_tiles(segmenter, WEB, TILING)

    def segment(pixels):
        found = segmenter.segment(np.ascontiguousarray(pixels))
        return found.mask, found.probability

    mask, score = segment_tiled(WEB, segment, TILING)
    assert np.array_equal(result.mask, mask)
    assert np.array_equal(result.mask, result.probability > result.threshold)
    assert result.regions == find_regions(mask, score)
    assert (result.size, result.verdict, result.answer_kind) == ((ROWS, WIDTH), Verdict.REJECT, AnswerKind.SEGMENTED)
    assert result.reason.startswith(f"{len(result.regions)} of {len(result.regions)} regions")
    assert result.timings_ms["total"] > 0


def test_an_image_that_fits_one_tile_gives_what_it_gives_without(segmenter):
    alone, tiled = segmenter.segment(IMAGES[DEFECT]), segment_in_tiles(segmenter, IMAGES[DEFECT], Tiling())
    assert np.array_equal(alone.probability, tiled.probability)
    assert (alone.regions, alone.verdict, alone.scores) == (tiled.regions, tiled.verdict, tiled.scores)


def test_outside_the_region_of_interest_nothing_is_found_whatever_the_tiles(segmenter):
    everywhere = segment_in_tiles(segmenter, WEB, TILING)
    recipe = Recipe(roi=(0, 90, WIDTH, 180))
    inside = segment_in_tiles(segmenter, WEB, TILING, recipe=recipe)
    assert np.array_equal(inside.mask[90:180], everywhere.mask[90:180])
    assert not inside.mask[:90].any()
    assert not inside.probability[180:].any()
    with pytest.raises(InputError, match="roi"):
        segment_in_tiles(segmenter, WEB, TILING, recipe=Recipe(roi=(900, 0, 901, 1)))


def test_tiles_without_an_answer_make_the_verdict_no_answer(segmenter):
    result = segment_in_tiles(segmenter, WEB, TILING, decoding=Decoding(max_new_tokens=1))
    assert result.verdict is Verdict.NO_ANSWER
    assert result.reason.startswith("8 of 8 tiles have no answer, the first one: ")


def test_tiles_outside_the_region_of_interest_are_not_asked(segmenter):
    inside = Recipe(roi=(0, 0, 20, 20))
    result = segment_in_tiles(segmenter, WEB, TILING, recipe=inside, decoding=Decoding(max_new_tokens=1))
    assert result.reason.startswith("1 of 1 tiles have no answer")
    assert result.mask.shape == (ROWS, WIDTH)


def test_the_command_segments_in_tiles(run_module, tmp_path):
    Image.fromarray(WEB).save(tmp_path / "sheet.png")
    sizes = ("--tile", 128, "--overlap", 16)
    done = run_module(
        "agvas_runtime.cli", "segment", tmp_path / "sheet.png", *sizes, "--json", "--out", tmp_path / "out"
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert (row["width"], row["height"], row["verdict"]) == (WIDTH, ROWS, "REJECT")
    mask = np.asarray(Image.open(tmp_path / "out" / "sheet_mask.png"))
    assert np.count_nonzero(mask) == row["defect_area_px"] > 0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--overlap", 8), "--overlap: found 8 without --tile, expected both"),
        (("--tile", 100, "--overlap", 51), "--overlap: found 51, expected 0 to 50"),
    ],
)
def test_the_command_refuses_tiles_that_make_no_sense(run_module, photo, options, text):
    done = run_module("agvas_runtime.cli", "segment", photo, *options)
    assert done.returncode == 2
    assert text in done.stderr
