"""`agvas-data mixture`: counts, shares, and the picture of the first samples."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from agvas_runtime.errors import InputError
from agvas_train.data.cli import app
from tests.train.mixture.mixed import mixture


def test_counts_shares_and_the_first_samples(root: Path, tmp_path: Path) -> None:
    picture = tmp_path / "sheet.png"
    arguments = ["mixture", "tiny-mixture", "--root", str(root), "--draws", "4000", "--out", str(picture), "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    rows = {row["set"]: row for row in found["sets"]}
    assert (rows["road"]["samples"], rows["road"]["share"]) == (4, pytest.approx(0.25 / 6))
    assert sum(row["share"] for row in rows.values()) == pytest.approx(1)
    assert sum(row["drawn"] for row in rows.values()) == pytest.approx(1)
    drawn = [mixture(root).draw(index) for index in range(10)]
    assert [(each["set"], each["index"]) for each in found["shown"]] == [(d.source.set, d.source.index) for d in drawn]
    assert [each["turns"][0] for each in found["shown"]] == [[d.turn.instruction, d.turn.answer] for d in drawn]
    pixels = np.asarray(Image.open(picture))
    assert pixels.shape[0] > 5 * 260
    assert (pixels != 255).any(axis=2).mean() > 0.2


def test_the_table_names_every_set(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["mixture", "7b", "--root", str(root), "--samples", "0", "--draws", "100"])
    assert result.exit_code == 0, result.output
    assert all(name in result.stdout for name in ("Anomaly-Seg", "zju-leaper", "goodsad-instruct", "webad"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["tiny"], "tiny: names no data sets, expected data.root in it, or --root"),
        (["nope"], "nope: no such file, and no shipped recipe (there are 0.5b, 7b, "),
        (["tiny-mixture", "--root", "nowhere"], "nowhere: found no folder"),
        (["tiny-mixture", "--root", ".", "--out", "x.txt"], "x.txt: found the suffix '.txt', expected one of .png"),
    ],
)
def test_wrong_arguments_are_one_line(arguments: list[str], fault: str) -> None:
    result = CliRunner().invoke(app, ["mixture", *arguments])
    assert isinstance(result.exception, InputError)
    assert fault in str(result.exception)
    assert "\n" not in str(result.exception)
    assert "--config" not in str(result.exception)


def test_no_more_samples_are_shown_than_a_sheet_is_good_for() -> None:
    result = CliRunner().invoke(app, ["mixture", "tiny-mixture", "--samples", "65"])
    assert result.exit_code == 2
    assert "64" in result.output
