"""`agvas-data synth`: the folder it writes can be read back, and mistakes cost one line."""

import json
import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from agvas_runtime import console
from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.files import whole_folder
from agvas_train.data.cli import app
from agvas_train.data.synth import SynthConfig, folder, generate
from agvas_train.data.synth.folder import write_folder

runner = CliRunner()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "set"
    result = runner.invoke(app, ["synth", str(out), "--count", "30", "--seed", "4", "--json"])
    assert result.exit_code == 0, result.output
    counts = json.loads(result.stdout)
    assert counts["images"] == 30
    assert counts["normal"] + counts["defective"] == 30
    return out


def records(root: Path) -> list[dict]:
    meta = json.loads((root / "meta.json").read_text())
    assert set(meta) == {"train", "test"}
    return [record for rows in meta["test"].values() for record in rows]


def test_every_record_of_meta_json_points_to_its_files(written: Path):
    listed = records(written)
    assert len(listed) == 30
    for record in listed:
        image = np.asarray(Image.open(written / record["img_path"]))
        assert image.ndim == 3
        assert record["img_path"].startswith(f"{record['cls_name']}/test/{record['specie_name']}/")
        assert bool(record["mask_path"]) == bool(record["anomaly"]) == (record["specie_name"] != "good")
        if record["mask_path"]:
            mask = np.asarray(Image.open(written / record["mask_path"]))
            assert mask.shape == image.shape[:2]
            assert set(np.unique(mask)) == {0, 255}


def test_no_file_is_left_unlisted(written: Path):
    named = {path for record in records(written) for path in (record["img_path"], record["mask_path"]) if path}
    there = {path.relative_to(written).as_posix() for path in written.rglob("*.png")}
    assert there == named


def test_captions_follow_the_stream(written: Path):
    lines = [json.loads(line) for line in (written / "captions.jsonl").read_text().splitlines()]
    for index, line in enumerate(lines):
        sample = generate(4, index)
        assert line["Summary"] == sample.caption.Summary
        assert line["exists"] == bool(sample.defects)
        assert np.array_equal(np.asarray(Image.open(written / line["image"])), sample.image)


def test_a_folder_with_content_is_refused(written: Path):
    result = runner.invoke(app, ["synth", str(written), "--count", "1"])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ")


def test_an_empty_folder_is_filled(tmp_path: Path):
    assert runner.invoke(app, ["synth", str(tmp_path), "--count", "2"]).exit_code == 0
    assert (tmp_path / "meta.json").exists()


def test_nothing_is_left_of_a_run_that_breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "_write_sample", broken)
    with pytest.raises(EngineError, match="No space left"):
        write_folder(tmp_path / "set", 2, 0, SynthConfig())
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_of_a_run_that_sigterm_ends(tmp_path: Path):
    command = [sys.executable, "-m", "agvas_train.data.cli", "synth", str(tmp_path / "set"), "--count", "1000000"]
    run = subprocess.Popen(command)
    while run.poll() is None and not any(tmp_path.glob("*/*")):
        with suppress(subprocess.TimeoutExpired):
            run.wait(0.05)
    run.terminate()
    assert run.wait() == 143
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "_write_sample", broken)
    with pytest.raises(SystemExit) as left:
        console.run(app, ["synth", str(tmp_path / "set"), "--count", "1"])
    assert left.value.code == 1
    assert capsys.readouterr().err == f"error: {tmp_path / 'set'}: cannot write: No space left on device\n"


def test_a_folder_behind_a_link_is_filled(tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    result = runner.invoke(app, ["synth", str(tmp_path / "link"), "--count", "1"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "meta.json").exists()


def test_a_folder_that_cannot_be_replaced_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folder, "generate", lambda *_: pytest.fail("it began"))
    result = runner.invoke(app, ["synth", ".", "--count", "1"])
    assert (result.exit_code, result.stderr) == (2, "error: .: is the current folder; name a folder in it\n")
    with pytest.raises(InputError, match="/proc: is a mount point; name a folder in it"), whole_folder(Path("/proc")):
        pytest.fail("it began")


def test_a_preview_alone_writes_one_picture(tmp_path: Path):
    result = runner.invoke(app, ["synth", "--count", "5", "--preview", str(tmp_path / "sheet.png")])
    assert result.exit_code == 0, result.output
    assert Image.open(tmp_path / "sheet.png").width > 1000


@pytest.mark.parametrize(
    "arguments",
    [["synth"], ["synth", "--preview", "/proc/x/sheet.png", "--count", "1"], ["synth", "/proc/x/y", "--count", "1"]],
)
def test_mistakes_cost_one_line(arguments: list[str]):
    result = runner.invoke(app, arguments)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.output


@pytest.mark.parametrize("preview", ["folder.png", "sheet.exe", "file/sheet.png"])
def test_a_preview_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path, preview: str):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").write_text("x")
    arguments = ["synth", str(tmp_path / "set"), "--count", "1", "--preview", str(tmp_path / preview)]
    result = runner.invoke(app, arguments)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert str(tmp_path) in result.stderr
    assert not (tmp_path / "set").exists()


def test_a_preview_is_whole_or_the_old_one(tmp_path: Path):
    sheet = tmp_path / "sheet.png"
    sheet.write_bytes(b"the old one")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        result = runner.invoke(app, ["synth", "--count", "2", "--preview", str(sheet)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert isinstance(result.exception, EngineError)
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("sheet.png", b"the old one")]


@pytest.mark.parametrize("option", [["--count", "0"], ["--normal-share", "1.5"], ["--seed", "-1"]])
def test_options_out_of_range_are_refused(tmp_path: Path, option: list[str]):
    assert runner.invoke(app, ["synth", str(tmp_path / "set"), *option]).exit_code == 2
    assert not (tmp_path / "set").exists()
