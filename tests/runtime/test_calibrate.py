"""`agvas-runtime calibrate`: the bounds, the choice, the recipe's text, and what a server makes of it all."""

import io
import json
import math
import os
import resource

import numpy as np
import pytest
from PIL import Image
from scipy.stats import beta, binomtest

from agvas_runtime.calibrate import bounds
from agvas_runtime.calibrate import run as calibration
from agvas_runtime.calibrate.areas import GRID, Areas, collect, largest_regions
from agvas_runtime.calibrate.choose import Line, choose
from agvas_runtime.calibrate.plot import CHOSEN, draw_plot
from agvas_runtime.calibrate.recipe_text import RecipeText
from agvas_runtime.calibrate.report import calibrated, conclusion
from agvas_runtime.cli import app
from agvas_runtime.client import Client
from agvas_runtime.console import run
from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.maps import binarise
from agvas_runtime.regions import find_regions
from agvas_runtime.server.recipes import RecipeBook
from agvas_runtime.verdict import AnswerKind, Recipe, Verdict, judge
from agvas_train.data.synth import SynthConfig, generate
from tests.conftest import DEMO_FRAMES
from tests.runtime.live_server import live_server

THRESHOLDS = np.array([0.3, 0.5, 0.7, 0.9])
VALUES = {"threshold": 0.65, "min_area_px": 57}


@pytest.fixture
def command(capsys):
    """Runs `agvas-runtime calibrate`; returns (exit code, stdout, stderr)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            run(app, ["calibrate", "--threads", "1", *map(str, arguments)])
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return call


@pytest.fixture(scope="module")
def normals(tmp_path_factory):
    """Two folders of synthetic normal images: to calibrate with, and others."""
    folders = []
    for seed, count in ((1, 60), (2, 120)):
        folders.append(tmp_path_factory.mktemp(f"normal{seed}"))
        for index in range(count):
            image = generate(seed, index, SynthConfig(normal_share=1.0, usual_sides=(100, 140))).image
            Image.fromarray(image).save(folders[-1] / f"{index:03}.png")
    return folders


def areas_of(largest, kinds=None, pixels=10_000) -> Areas:
    rows = np.array(largest, np.int64)
    answers = tuple(kinds or [AnswerKind.SEGMENTED] * len(rows))
    return Areas(answers, rows, THRESHOLDS[: rows.shape[1]], np.full(len(rows), pixels))


@pytest.mark.parametrize("n", [1, 2, 30, 299, 5000])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.999])
def test_the_bounds_are_those_of_scipy(n, confidence):
    for k in sorted({0, 1, n // 7, n // 2, n - 1, n}):
        expected = 1.0 if k == n else beta.ppf(confidence, k + 1, n - k)
        assert bounds.upper_bound(k, n, confidence) == pytest.approx(expected, rel=1e-9)
        exact = binomtest(k, n).proportion_ci(confidence, method="exact")
        assert bounds.interval(k, n, confidence) == pytest.approx((exact.low, exact.high), rel=1e-9, abs=1e-12)


def test_299_images_without_a_reject_show_1_percent_and_298_do_not():
    assert bounds.images_needed(0.01, 0.95) == 299
    assert bounds.upper_bound(0, 299, 0.95) == pytest.approx(1 - 0.05 ** (1 / 299), rel=1e-12)
    assert (bounds.most_rejects(298, 0.01, 0.95), bounds.most_rejects(299, 0.01, 0.95)) == (None, 0)


@pytest.mark.parametrize(("rate", "confidence"), [(0.01, 0.95), (0.1, 0.9), (0.5, 0.99)])
def test_the_most_rejects_are_the_last_whose_bound_is_within_the_rate(rate, confidence):
    for n in (10, 100, 473, 2000):
        within = [k for k in range(n) if beta.ppf(confidence, k + 1, n - k) <= rate]
        assert bounds.most_rejects(n, rate, confidence) == (within[-1] if within else None)


def test_the_bound_holds_for_a_setting_that_was_chosen_by_the_same_images(rng):
    n, allowed, line = 60, 2, Line(0.3, 1, 400_000)
    bound = bounds.upper_bound(allowed, n, 0.95)
    kept = 0
    for _ in range(2000):
        areas = rng.integers(1, 1_000_000, (n, 2))
        areas[:, 1] = areas[:, 0] * rng.uniform(0, 1, n)
        choice = choose(areas, THRESHOLDS[:2], line, allowed)
        if choice.threshold == 0.3:
            true_rate = (1_000_000 - choice.min_area_px) / 999_999
        else:  # a share u of the area is left, with u uniform
            share = line.max_area / 1_000_000
            true_rate = 1 - share + share * math.log(share)
        kept += choice.reached and true_rate <= bound
        kept += not choice.reached and true_rate > bound  # rightly so
    assert 0.94 < kept / 2000 <= 1


def test_a_confident_bound_is_no_wider_than_it_must_be(rng):
    n, allowed, line = 60, 2, Line(0.3, 1, 1_000_000)
    bound = bounds.upper_bound(allowed, n, 0.95)
    areas = [rng.integers(1, 1_000_000, (n, 1)) for _ in range(2000)]
    chosen = [choose(each, THRESHOLDS[:1], line, allowed).min_area_px for each in areas]
    held = np.mean([(1_000_000 - area) / 999_999 <= bound for area in chosen])
    assert held == pytest.approx(0.95, abs=0.02)


def test_a_region_counts_as_the_verdict_s_rule_says(rng):
    for _ in range(20):
        score = rng.random((12, 15), np.float32) ** rng.uniform(0.3, 3)
        recipe = Recipe(min_score=float(rng.uniform(0, 1)))
        found = largest_regions(score, THRESHOLDS, recipe)
        for index, threshold in enumerate(THRESHOLDS):
            regions = find_regions(binarise(score, float(threshold)), score)
            for area in (1, 2, 3, 5, 20, 200):
                rule = recipe.model_copy(update={"min_area_px": area})
                verdict, _ = judge(AnswerKind.SEGMENTED, regions, rule)
                assert (verdict is Verdict.REJECT) == (found[index] >= area)


LARGEST = [[0, 0, 0, 0], [9, 5, 1, 0], [50, 40, 12, 0], [90, 80, 70, 3]]


@pytest.mark.parametrize(
    ("allowed", "max_area", "expected"),
    [
        (3, 100, (0.5, 1, 3, True)),
        (2, 100, (0.5, 6, 2, True)),
        (1, 100, (0.5, 41, 1, True)),
        (0, 100, (0.5, 81, 0, True)),
        (1, 20, (0.7, 20, 1, True)),  # 40 px are too large a smallest area: the threshold rises
        (0, 20, (0.9, 20, 0, True)),
        (0, 3, (0.9, 3, 1, False)),
    ],
)
def test_the_smallest_area_grows_first_and_then_the_threshold_rises(allowed, max_area, expected):
    found = choose(np.array(LARGEST), THRESHOLDS, Line(0.5, 1, max_area), allowed)
    assert (found.threshold, found.min_area_px, found.rejects, found.reached) == expected


def test_a_setting_never_rejects_more_than_are_allowed(rng):
    for _ in range(200):
        areas = np.sort(rng.integers(0, 30, (25, 4)) * (rng.random((25, 4)) > 0.3))[:, ::-1]
        allowed = int(rng.integers(0, 25))
        found = choose(areas, THRESHOLDS, Line(0.3, int(rng.integers(1, 5)), int(rng.integers(5, 40))), allowed)
        index = int(np.flatnonzero(found.threshold == THRESHOLDS)[0])
        assert found.rejects == np.count_nonzero(areas[:, index] >= found.min_area_px)
        assert found.reached == (found.rejects <= allowed)


def test_few_images_are_said_to_be_few():
    report = calibrated(areas_of([[3, 1]] * 30), Line(0.3, 1, 100), 0.01, 0.95, "reject")
    assert (report["threshold"], report["min_area_px"], report["rejects"], report["shown"]) == (0.3, 4, 0, False)
    assert report["false_reject_upper_bound"] == pytest.approx(1 - 0.05 ** (1 / 30))
    expected = "30 images are too few to show 1 % at 95 % confidence: with no reject at all they show at most 9.5 %"
    assert conclusion(report) == f"{expected}, and 299 would be needed"


def test_answers_are_counted_apart_from_what_a_threshold_can_change():
    kinds = [AnswerKind.REJECTED] * 6 + [AnswerKind.SEGMENTED] * 3 + [AnswerKind.OTHER]
    rows = [[0] * 4] * 6 + [[9, 4, 1, 0], [9000, 9000, 9000, 9000], [9000, 5000, 4999, 4999]] + [[0] * 4]
    report = calibrated(areas_of(rows, kinds), Line(0.3, 1, 100), 0.5, 0.95, "stop")
    assert report["answers"] == {"segmented": 3, "rejected": 6, "other": 1}
    exact = binomtest(3, 10).proportion_ci(0.95, method="exact")
    assert report["segmented"]["interval"] == pytest.approx([exact.low, exact.high])
    assert (report["no_answer"]["count"], report["no_answer"]["gate"]) == (1, "stop")
    assert report["segmented_as_a_whole"] == 1


def test_the_plot_has_the_chosen_point():
    report = calibrated(areas_of(LARGEST), Line(0.5, 1, 100), 0.3, 0.95, "reject")
    image = Image.open(io.BytesIO(draw_plot(report))).convert("RGB")
    chosen = tuple(bytes.fromhex(CHOSEN[1:]))
    assert (np.asarray(image) == chosen).all(axis=2).sum() > 50


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (None, "threshold: 0.65\nmin_area_px: 57\n"),
        ("threshold: 0.4 # why\nmin_area_px: 5\n", "threshold: 0.65 # why\nmin_area_px: 57\n"),
        (
            "# bolts\nmin_area_px:   5   # px\nroi: [1, 2, 30, 40]\n\n# the end",
            "# bolts\nmin_area_px:   57   # px\nroi: [1, 2, 30, 40]\nthreshold: 0.65\n\n# the end",
        ),
        ("mode: direct", "mode: direct\nthreshold: 0.65\nmin_area_px: 57\n"),
        ("mode: direct\r\nalpha: 0\r\n", "mode: direct\r\nalpha: 0\r\nthreshold: 0.65\r\nmin_area_px: 57\r\n"),
        ("\ufeffalpha: 0.5\n", "\ufeffalpha: 0.5\nthreshold: 0.65\nmin_area_px: 57\n"),
        ("{alpha: 0, threshold: 0.1}\n", "{min_area_px: 57, alpha: 0, threshold: 0.65}\n"),
        (
            "instruction: |\n  Find the scratches,\n  please.\n",
            "instruction: |\n  Find the scratches,\n  please.\nthreshold: 0.65\nmin_area_px: 57\n",
        ),
        ("---\n  'threshold': 1e-1\n  alpha: 0\n", "---\n  'threshold': 0.65\n  alpha: 0\n  min_area_px: 57\n"),
    ],
)
def test_a_recipe_keeps_all_but_the_two_values(tmp_path, old, new):
    path = tmp_path / "bolt.yaml"
    if old is not None:
        path.write_bytes(old.encode())
    text = RecipeText(path)
    text.write(text.with_values(VALUES))
    assert path.read_bytes().decode() == new
    recipe = RecipeBook(tmp_path).get("bolt").message.recipe
    assert (recipe.threshold, recipe.min_area_px) == (0.65, 57)


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("bolt.yaml", "treshold: 0.5\n", "unknown field 'treshold', expected threshold"),
        ("bolt.yaml", "threshold: 2\n", "threshold: found 2"),
        ("bolt.yaml", "# nothing\n", "found nothing"),
        ("bolt.yml", "threshold: 0.5\n", "expected a recipe's name"),
        ("two words.yaml", "threshold: 0.5\n", "expected a recipe's name"),
    ],
)
def test_a_recipe_that_a_server_would_refuse_is_refused_and_kept(command, tmp_path, name, content, error):
    path = tmp_path / name
    path.write_text(content)
    code, _, err = command(DEMO_FRAMES, "--recipe", path)
    assert (code, err.count("\n")) == (2, 1)
    assert str(path) in err
    assert error in err
    assert path.read_text() == content


def test_a_recipe_that_was_changed_meanwhile_is_left_as_it_is(tmp_path):
    path = tmp_path / "bolt.yaml"
    path.write_text("threshold: 0.4\n")
    text = RecipeText(path)
    path.write_text("threshold: 0.4\nroi: [0, 0, 9, 9]\n")
    with pytest.raises(EngineError, match="was changed since it was read"):
        text.write(text.with_values(VALUES))
    assert path.read_text() == "threshold: 0.4\nroi: [0, 0, 9, 9]\n"


def test_a_full_disk_keeps_the_old_recipe(tmp_path):
    path = tmp_path / "bolt.yaml"
    path.write_text("threshold: 0.4\n")
    text = RecipeText(path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4, limits[1]))
    try:
        with pytest.raises(EngineError, match="cannot write"):
            text.write(text.with_values(VALUES))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == "threshold: 0.4\n"
    assert [each.name for each in tmp_path.iterdir()] == ["bolt.yaml"]


def test_a_link_stays_a_link_and_rights_stay(tmp_path):
    real, link = tmp_path / "real.yaml", tmp_path / "bolt.yaml"
    real.write_text("threshold: 0.4\n")
    real.chmod(0o640)
    link.symlink_to(real)
    text = RecipeText(link)
    text.write(text.with_values(VALUES))
    assert link.is_symlink()
    assert (real.read_text(), real.stat().st_mode & 0o777) == ("threshold: 0.65\nmin_area_px: 57\n", 0o640)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_recipe_stays_its_owner_s(tmp_path):
    path = tmp_path / "bolt.yaml"
    path.write_text("threshold: 0.4\n")
    os.chown(path, 12345, 12346)
    path.chmod(0o640)
    text = RecipeText(path)
    text.write(text.with_values(VALUES))
    found = path.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (12345, 12346, 0o640)


def test_copies_of_an_image_count_once(photo, tmp_path):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(photo.read_bytes())
    images, copies = collect([tmp_path, photo, tmp_path / "a.jpg"])
    assert (images, copies) == ([tmp_path / "a.jpg"], 2)


def test_a_server_rejects_no_more_of_other_normal_images_than_was_promised(command, normals, tmp_path):
    """The embedded model sees regions on many of them, so the wanted rate is a modest one."""
    path, plot = tmp_path / "recipes" / "default.yaml", tmp_path / "rates.png"
    path.parent.mkdir()
    path.write_text("# a line\nmask_format: none\n")
    wanted = ["--false-reject", "0.1", "--max-area", "1000", "--recipe", path, "--plot", plot, "--json"]
    code, out, err = command(normals[0], *wanted)
    assert (code, err.splitlines()) == (0, [f"written: {plot}", f"written: {path}"])
    report = json.loads(out)
    assert report["shown"]
    assert report["false_reject_upper_bound"] <= 0.1
    assert report["rejects"] <= report["rejects_allowed"] == bounds.most_rejects(60, 0.1, 0.95) == 1
    assert report["threshold"] in (0.5, *GRID)
    expected = f"# a line\nmask_format: none\nthreshold: {report['threshold']}\nmin_area_px: {report['min_area_px']}\n"
    assert path.read_text() == expected
    with live_server(recipes=path.parent) as live, Client(live.address) as client:
        own, others = ([client.segment(image) for image in sorted(folder.iterdir())] for folder in normals)
    assert {reply.recipe_name for reply in own} == {"default"}
    assert sum(reply.verdict is Verdict.REJECT for reply in own) == report["rejects"]
    assert sum(reply.verdict is Verdict.REJECT for reply in others) <= 0.1 * len(others)


def test_where_no_setting_will_do_it_says_so_and_writes_no_recipe(command, normals, tmp_path):
    path = tmp_path / "bolt.yaml"
    code, out, err = command(normals[1], "--max-area", "1", "--recipe", path)
    assert code == 1
    assert "by answers alone" in out
    assert "images are rejected even at threshold 0.99 and min_area_px 1, expected at most 0" in err
    assert err.count("\n") == 1
    assert not path.exists()


def test_a_recipe_s_own_question_is_what_is_asked(command, tmp_path):
    path = tmp_path / "bolt.yaml"
    path.write_text("max_new_tokens: 1\n")  # so no answer reaches its end
    code, _, err = command(DEMO_FRAMES / "01_part_normal.jpg", "--recipe", path)
    assert (code, err) == (1, "error: none of 1 images got an answer that is a verdict; nothing was written\n")
    path.write_text("mode: conversation\ninstruction: What is it?\n")
    code, _, err = command(DEMO_FRAMES / "01_part_normal.jpg", "--recipe", path)
    assert code == 2
    assert "conversation, which has no verdict" in err


def test_bad_usage_and_bad_images_are_one_line(command, photo, tmp_path):
    broken, recipe = tmp_path / "broken.png", tmp_path / "bolt.yaml"
    broken.write_bytes(b"no image")
    for arguments, text in (
        ((photo, "--false-reject", "0"), "--false-reject: found 0"),
        ((photo, "--confidence", "1"), "--confidence: found 1"),
        ((photo, "--min-area", "9", "--max-area", "8"), "--max-area: found 8, expected at least --min-area, 9"),
        ((tmp_path / "nowhere",), "nowhere: no such file or folder"),
        ((photo, broken, "--recipe", recipe), f"{broken}: not an image file"),
    ):
        code, out, err = command(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), arguments
        assert text in err
    assert not recipe.exists()


def test_a_place_that_cannot_be_written_is_refused_before_the_work(command, photo, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    recipe = tmp_path / "bolt.yaml"
    recipe.write_text("threshold: 0.4\n")
    monkeypatch.setattr(calibration, "_measured", lambda *_: pytest.fail("it began"))
    for place in (tmp_path, tmp_path / "file" / "rates.png"):
        code, out, err = command(photo, "--plot", place, "--recipe", recipe)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert str(tmp_path) in err
    assert recipe.read_text() == "threshold: 0.4\n"


def test_all_is_written_before_the_report_is_printed(command, photo, tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(calibration, "_measured", lambda *_: (areas_of([[0] * 4] * 60), 0.5))
    monkeypatch.setattr(calibration, "print_report", full)
    recipe, plot = tmp_path / "bolt.yaml", tmp_path / "rates.png"
    assert command(photo, "--false-reject", "0.1", "--recipe", recipe, "--plot", plot)[0] == 1
    assert "threshold: 0.5\n" in recipe.read_text()
    assert plot.exists()


def test_a_recipe_below_a_file_cannot_be(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot read: Not a directory"):
        RecipeText(tmp_path / "file" / "bolt.yaml")
