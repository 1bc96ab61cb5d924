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
    with pytest.raises(InputError, match="no images in this folder"):
        image_files(tmp_path / "notes")
