"""Which images `agvas-export --verify` and `--calibration` take of a folder or a data set."""

from pathlib import Path

import pytest
from PIL import Image

from agvas_export.proof import image_files
from agvas_runtime.errors import InputError
from agvas_train.data.synth import SynthConfig, generate
from agvas_train.data.synth.folder import write_folder as write_images


def test_images_are_decoded_before_the_work(tmp_path: Path) -> None:
    generated = Image.fromarray(generate(5, 0).image)
    generated.save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:-500])
    with pytest.raises(InputError, match=r"b\.png: truncated image"):
        image_files(tmp_path)


def test_images_of_a_data_set_are_found_whatever_lies_beside_its_categories(tmp_path: Path) -> None:
    write_images(tmp_path / "set", 4, 0, SynthConfig())
    (tmp_path / "set" / "license.txt").write_text("none")
    assert image_files(tmp_path / "set")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("no image")
    with pytest.raises(InputError, match="no data set here"):
        image_files(tmp_path / "notes")


def test_pictures_beside_the_categories_or_the_list_do_not_hide_the_data_set(tmp_path: Path) -> None:
    folders, listed = tmp_path / "folders", tmp_path / "listed"
    write_images(folders, 4, 0, SynthConfig())
    expected = image_files(folders)
    (folders / "._overview.png").write_bytes(b"no picture")
    assert image_files(folders) == expected
    Image.new("RGB", (8, 8)).save(folders / "overview.png")
    assert image_files(folders) == expected

    listed.mkdir()
    for name in ("a.png", "overview.png"):
        Image.new("RGB", (8, 8)).save(listed / name)
    (listed / "meta.json").write_text('{"test": {"part": [{"img_path": "a.png", "anomaly": 0}]}}')
    assert image_files(listed) == image_files(listed / "meta.json") == [listed / "a.png"]
