"""The synthetic stream: deterministic, masks, truthful captions, every surface and defect."""

import re
import subprocess
import sys
import zlib
from collections import Counter
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from agvas_train.data.synth import Sample, SynthConfig, generate
from agvas_train.data.synth.captions import noun
from agvas_train.data.synth.compose import render
from agvas_train.data.synth.defects import HELD_OUT, PAINTERS
from agvas_train.data.synth.notes import place_word, size_word
from agvas_train.data.synth.surfaces import SURFACES

COUNT = 600
KINDS_OF_SURFACES = {
    "brushed",
    "cast",
    "rolled",
    "asphalt",
    "woven",
    "felt",
    "wood",
    "leather",
    "smooth",
    "tiled",
    "mesh",
    "printed",
    "circuit",
    "part",
    "parts",
    "pattern",
    "joined",
    "plaster",
    "foam",
    "heap",
    "flakes",
    "turned",
    "bar",
    "ribbed",
    "skin",
    "lining",
    "scan",
    "leaf",
    "fruit",
    "electronics",
    "panel",
    "pack",
    "biscuit",
    "rope",
    "cable",
}


@lru_cache(maxsize=1)
def stream() -> tuple[Sample, ...]:
    return tuple(generate(8, index) for index in range(COUNT))


def digest(sample: Sample) -> int:
    return hash((sample.image.tobytes(), sample.mask.tobytes(), sample.defects, sample.caption))


def test_a_sample_depends_on_seed_and_index_alone():
    backwards = [generate(8, index) for index in range(24, -1, -1)][::-1]
    assert [digest(sample) for sample in backwards] == [digest(sample) for sample in stream()[:25]]
    assert digest(generate(8, 0)) != digest(generate(9, 0))


def test_another_process_draws_the_same_images():
    code = (
        "import zlib; from agvas_train.data.synth import generate; "
        "drawn = (generate(8, i) for i in (40, 3, 11)); "
        "print(*[zlib.crc32(s.image.tobytes() + s.mask.tobytes() + repr(s.caption).encode()) for s in drawn])"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    here = [
        zlib.crc32(s.image.tobytes() + s.mask.tobytes() + repr(s.caption).encode())
        for s in (stream()[i] for i in (40, 3, 11))
    ]
    assert [int(word) for word in other.split()] == here


def test_images_and_masks_have_the_promised_types_and_sizes():
    for sample in stream():
        height, width = sample.mask.shape
        assert sample.image.shape == (height, width, 3)
        assert sample.image.dtype == np.uint8
        assert sample.mask.dtype == np.bool_
        assert SynthConfig().min_side <= min(height, width) <= max(height, width) <= SynthConfig().max_side
        assert all(part.shape == sample.mask.shape and part.dtype == np.bool_ for part in sample.parts.values())


def test_the_mask_is_empty_exactly_when_nothing_is_noted():
    for sample in stream():
        assert sample.mask.any() == bool(sample.defects) == sample.caption.exists


def test_the_mask_covers_changed_pixels_and_the_narrow_gaps_between_them():
    for index in range(200):
        drawn = render(7, index)
        change = np.abs(drawn.scene.rgb - drawn.clean).max(axis=2)
        masks = [item.mask for item in drawn.painted]
        if not masks:
            assert drawn.scene.rgb.shape == drawn.clean.shape
            assert not change.any()
            continue
        union = np.logical_or.reduce(masks)
        assert (change[union] > 3 / 255).mean() > 0.4  # the rest is narrow gaps between such pixels
        assert change[~union].mean() < change[union].mean() * 0.5


def test_a_sample_without_its_parts_is_the_same_otherwise():
    whole = [index for index, sample in enumerate(stream()) if sample.parts][:4]
    assert len(whole) == 4
    for index in whole:
        bare = generate(8, index, parts=False)
        assert not bare.parts
        assert digest(bare) == digest(stream()[index])


def test_a_normal_render_is_the_clean_surface():
    drawn = [render(5, index, SynthConfig(normal_share=1.0)) for index in range(10)]
    assert all(np.array_equal(item.scene.rgb, item.clean) and not item.painted for item in drawn)


def test_the_share_of_normal_images_follows_the_configuration():
    normal = sum(not sample.defects for sample in stream()) / COUNT
    assert 0.38 < normal < 0.54
    assert all(generate(1, index, SynthConfig(normal_share=0.0)).defects for index in range(30))


def test_every_surface_and_every_defect_appears():
    assert {sample.surface.kind for sample in stream()} == KINDS_OF_SURFACES
    assert {note.kind for sample in stream() for note in sample.defects} == set(PAINTERS) - HELD_OUT


def test_every_defect_named_by_a_surface_has_a_painter():
    rng = np.random.default_rng(0)
    for maker in SURFACES:
        for _ in range(6):
            assert set(maker(rng, 96, 128).defects) <= set(PAINTERS)


def test_sizes_and_difficulty_vary():
    shares = [note.area_px / sample.mask.size for sample in stream() for note in sample.defects]
    assert min(shares) < 0.0008
    assert max(shares) > 0.1
    words = Counter(note.size for sample in stream() for note in sample.defects)
    assert min(words[word] for word in ("tiny", "small", "medium-sized", "large")) > 15


def test_notes_are_measured_on_the_mask():
    for sample in stream():
        if len(sample.defects) != 1:
            continue
        (note,) = sample.defects
        rows, columns = np.nonzero(sample.mask)
        assert note.area_px == len(rows)
        assert note.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert note.place == place_word(columns.mean(), rows.mean(), sample.mask.shape[1], sample.mask.shape[0])
        assert note.size == size_word(note.area_px, sample.mask.size)


def test_captions_name_kind_and_place_of_every_defect():
    for sample in stream():
        caption = sample.caption
        for note in sample.defects:
            assert noun(note.kind) in caption.Summary
            assert re.search(rf"\b{note.place}\b", caption.Summary)
            assert note.size in caption.Observation
        if sample.defects:
            assert caption.Summary.count("[NOR][ANO][SEG]") == 1
            assert "[" not in caption.Explanation
            assert sample.surface.name in caption.Expectation
            assert caption.Explanation.startswith("Normally, ")
        else:
            assert caption.Summary == ""


def test_places_are_the_cells_of_a_grid():
    assert place_word(0, 0, 90, 60) == "top-left"
    assert place_word(45, 30, 90, 60) == "center"
    assert place_word(45, 59, 90, 60) == "bottom"
    assert place_word(89, 30, 90, 60) == "right"


def test_a_wrong_configuration_is_refused():
    with pytest.raises(ValueError, match=r"normal_share = 1\.5"):
        replace(SynthConfig(), normal_share=1.5)
    with pytest.raises(ValueError, match="min_side = 500"):
        SynthConfig(min_side=500)


def test_small_and_narrow_images_work():
    config = SynthConfig(min_side=96, max_side=130, usual_sides=(96, 130), square_share=0.0, normal_share=0.0)
    assert all(max(generate(2, index, config).mask.shape) <= 130 for index in range(60))
