"""agvas-eval --maps: score maps that another program wrote are judged by the same code."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agvas_runtime import console
from agvas_runtime.datasets import load_dataset
from agvas_runtime.errors import InputError
from agvas_runtime.evaluate.cli import app
from agvas_runtime.evaluate.report import as_report
from agvas_runtime.evaluate.run import evaluate_dataset
from agvas_runtime.evaluate.sources import Maps, Model, read_map
from tests.runtime.red_source import Red, save

RANDOM = np.random.default_rng(4)


@pytest.fixture
def data(tmp_path):
    """One defective and one normal image, neither square, and what `Red` would say of them as maps."""
    truth = RANDOM.random((9, 14)) < 0.2
    for name, truth_, size in (("0", truth, (9, 14)), ("1", None, (12, 5))):
        red = (RANDOM.random(size) * 200).astype(np.uint8)
        save(tmp_path / "data", name, red, truth=truth_)
        kind = "good" if truth_ is None else "crack"
        path = tmp_path / "maps" / "part" / "test" / kind / f"{name}.npy"
        path.parent.mkdir(parents=True)
        np.save(path, red.astype(np.float32) / 255)
    return load_dataset(tmp_path / "data")


def figures(done):
    report = console.finite(as_report(done.evaluation, "data", done.settings))
    return {name: value for name, value in report["mean"].items() if name not in ("ms_per_image", "answer_auroc")}


def crack(tmp_path):
    return tmp_path / "maps" / "part" / "test" / "crack" / "0.npy"


def test_maps_of_a_model_give_the_models_figures(data, tmp_path):
    assert figures(evaluate_dataset(Maps(tmp_path / "maps"), data)) == figures(evaluate_dataset(Red(), data))


def test_only_the_mask_depends_on_the_range_of_scores(data, tmp_path):
    expected = figures(evaluate_dataset(Maps(tmp_path / "maps"), data))
    for path in (tmp_path / "maps").rglob("*.npy"):
        np.save(path, np.load(path).astype(np.float64) * 30 - 7)
    with pytest.raises(InputError, match=r"0.npy: found scores from -7 to .*, expected \[0,1\] or a --threshold"):
        evaluate_dataset(Maps(tmp_path / "maps"), data)
    found = figures(evaluate_dataset(Maps(tmp_path / "maps", threshold=0.5 * 30 - 7), data))
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535)])
@pytest.mark.parametrize("suffix", [".npy", ".png"])
def test_integers_are_shares_of_their_formats_range(tmp_path, dtype, top, suffix):
    values = np.array([[0, 1, top // 2], [top // 2 + 1, top - 1, top]], dtype)
    path = tmp_path / f"map{suffix}"
    np.save(path, values) if suffix == ".npy" else Image.fromarray(values).save(path)
    read = read_map(path)
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, values / top, rtol=1e-6)
    assert (read > 0.5).sum() == 3  # above half of the range


def test_floats_and_truths_are_taken_as_they_are(tmp_path):
    for dtype in (np.float16, np.float64, bool):
        np.save(tmp_path / "map.npy", np.array([[0, 0.5, 1]], dtype))
        np.testing.assert_array_equal(read_map(tmp_path / "map.npy"), np.array([[0, 0.5, 1]], dtype).astype(np.float32))


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((14, 9), np.float32), r"0.npy: the score map is 9 x 14, its image .*crack/0.png 14 x 9; must be"),
        (np.zeros((1, 9, 14), np.float32), r"0.npy: found float32 \[1, 9, 14\], expected bool, uint8, uint16 or float"),
        (np.zeros((9, 14), np.int64), r"0.npy: found int64 \[9, 14\], expected"),
        (np.full((9, 14), np.nan), "0.npy: holds NaN or infinite scores"),
        (np.full((9, 14), 1e300), "0.npy: holds NaN or infinite scores"),
        (np.array([[{}]]), "0.npy: no NPY array"),
        (None, r"crack/0.png: found 0 score maps, expected one: .*crack/0.npy or .png"),
    ],
)
def test_maps_that_cannot_be_used_are_refused_by_name(data, tmp_path, array, reason):
    path = crack(tmp_path)
    path.unlink() if array is None else np.save(path, array)
    with pytest.raises(InputError, match=reason):
        evaluate_dataset(Maps(tmp_path / "maps"), data)


def test_a_file_that_begins_as_an_archive_and_is_none_is_refused_by_name(data, tmp_path):
    crack(tmp_path).write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(InputError, match=r"0\.npy: no NPY array"):
        evaluate_dataset(Maps(tmp_path / "maps"), data)


def test_a_picture_of_colours_is_no_map(data, tmp_path):
    crack(tmp_path).unlink()
    Image.new("RGB", (14, 9)).save(crack(tmp_path).with_suffix(".png"))
    with pytest.raises(InputError, match=r"0.png: found pixels in mode RGB, expected grey of 8 or 16 bits"):
        evaluate_dataset(Maps(tmp_path / "maps"), data)


def test_two_maps_of_one_image_are_refused(data, tmp_path):
    Image.new("L", (14, 9)).save(crack(tmp_path).with_suffix(".png"))
    with pytest.raises(InputError, match="found 2 score maps, expected one"):
        evaluate_dataset(Maps(tmp_path / "maps"), data)


@pytest.mark.parametrize("threshold", ["nan", "inf", "-inf", "1e39"])
def test_a_threshold_that_no_map_can_have_is_refused(data, tmp_path, capfd, threshold):
    with pytest.raises(SystemExit) as left:
        console.run(app, [str(tmp_path / "data"), "--maps", str(tmp_path / "maps"), f"--threshold={threshold}"])
    assert left.value.code == 2
    err = capfd.readouterr().err
    assert err.startswith(f"error: --threshold: found {float(threshold)}, expected a finite number")
    assert err.count("\n") == 1


def test_other_maps_and_another_folder_are_other_settings(data, tmp_path, monkeypatch):
    before = Maps(tmp_path / "maps").settings(data.items)
    monkeypatch.chdir(tmp_path)
    assert Maps(Path("maps")).settings(data.items) == before
    os.utime(crack(tmp_path), ns=(1, 1))
    touched = Maps(tmp_path / "maps").settings(data.items)
    assert touched["model_fingerprint"] != before["model_fingerprint"]
    np.save(tmp_path / "maps" / "part" / "of_no_image_of_these.npy", np.zeros((1, 1)))
    assert Maps(tmp_path / "maps").settings(data.items) == touched
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "part").symlink_to(tmp_path / "maps" / "part")
    linked, none = Maps(tmp_path / "linked").settings(data.items), Maps(tmp_path).settings(data.items)
    assert linked["model_fingerprint"] == touched["model_fingerprint"] != none["model_fingerprint"]


def test_a_run_does_not_go_on_with_maps_that_were_made_anew(data, tmp_path):
    good = tmp_path / "maps" / "part" / "test" / "good" / "1.npy"
    kept = good.read_bytes()
    good.write_bytes(b"")
    with pytest.raises(InputError, match=r"1\.npy: no NPY array"):
        evaluate_dataset(Maps(tmp_path / "maps"), data, out=tmp_path / "out")
    good.write_bytes(kept)
    with pytest.raises(InputError, match=r"settings\.json: model_fingerprint: found .*; --resume goes on with"):
        evaluate_dataset(Maps(tmp_path / "maps"), data, out=tmp_path / "out", resume=True)


def test_a_model_is_told_by_its_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Model("reference", Path("tiny")).settings([])["model"] == str(tmp_path / "tiny")


def test_the_command_says_whose_maps_it_judged(data, tmp_path, capfd):
    arguments = [tmp_path / "data", "--maps", tmp_path / "maps", "--threshold", 0.25, "--json"]
    with pytest.raises(SystemExit) as left:
        console.run(app, [str(argument) for argument in arguments])
    assert left.value.code == 0
    report = json.loads(capfd.readouterr().out)
    assert (report["engine"], report["model"]) == ("maps", str(tmp_path / "maps"))
    assert report["protocol"]["mask"] == "map above 0.25"
    assert report["mean"]["ms_per_image"] is None
