"""Views equal PIL's resize followed by (x / 255 - mean) / std."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from agvas_runtime.frames import as_rgb
from agvas_runtime.preprocess import PixelView, SemanticView, both_views

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def frame(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pil_resized(image, size, how):
    """Along the rows first. So does PIL in one step, but for some tall images from 13 on."""
    return Image.fromarray(image).resize((size[0], image.shape[0]), how).resize(size, how)


def by_hand(image, size, how):
    resized = np.asarray(pil_resized(image, size, how), np.float64)
    return ((resized / 255 - MEAN) / STD).transpose(2, 0, 1)


@pytest.mark.parametrize("shape", [(64, 64), (300, 200), (17, 90), (1, 1)])
def test_semantic_view_squashes_bicubic(shape):
    image = frame(*shape)
    got = SemanticView(size=64, mean=MEAN, std=STD).apply(image)
    assert got.dtype == np.float32
    assert got.shape == (1, 3, 64, 64)
    np.testing.assert_allclose(got[0], by_hand(image, (64, 64), Image.Resampling.BICUBIC), atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "resized"),
    [((64, 64), (64, 64)), ((300, 200), (64, 43)), ((200, 300), (43, 64)), ((10, 2000), (1, 64)), ((1, 1), (64, 64))],
)
def test_pixel_view_keeps_the_aspect_and_pads_with_zeros(shape, resized):
    image = frame(*shape)
    got, size = PixelView(size=64, mean=MEAN, std=STD).apply(image)
    assert size == resized
    h, w = size
    np.testing.assert_allclose(got[0, :, :h, :w], by_hand(image, (w, h), Image.Resampling.BILINEAR), atol=1e-6)
    assert not got[0, :, h:].any()
    assert not got[0, :, :, w:].any()


@pytest.mark.parametrize("shape", [(64, 64), (300, 200), (200, 300), (25, 64), (10, 2000), (2000, 3), (1, 1)])
def test_a_mirroring_view_goes_on_as_the_frame_s_mirror_image(shape):
    image = frame(*shape)
    padded, (h, w) = PixelView(size=64, mean=MEAN, std=STD).apply(image)
    got, size = PixelView(size=64, mean=MEAN, std=STD, mirror=True).apply(image)
    assert size == (h, w)
    around = ((0, 0), (0, 0), (0, 64 - h), (0, 64 - w))
    np.testing.assert_array_equal(got, np.pad(padded[..., :h, :w], around, mode="symmetric"))


def test_a_frame_of_the_right_size_is_not_resampled():
    image = frame(64, 64)
    got, _ = PixelView(size=64, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)).apply(image)
    np.testing.assert_array_equal(np.rint(got[0] * 255).astype(np.uint8).transpose(1, 2, 0), image)


def test_views_accept_arrays_that_are_not_contiguous_or_not_writeable():
    image = frame(80, 60)[::2, ::-1]
    image.setflags(write=False)
    view = SemanticView(size=32, mean=MEAN, std=STD)
    np.testing.assert_array_equal(view.apply(image), view.apply(image.copy()))


@pytest.mark.parametrize("shape", [(64, 64), (90, 60), (701, 903), (3, 70_000), (70_000, 3), (2100, 64), (64, 2100)])
@pytest.mark.parametrize("grey", [False, True])
def test_both_views_are_to_the_byte_what_pil_gives_whatever_the_frame_s_size(shape, grey):
    image = frame(*shape)
    image = as_rgb(image[:, :, 0].copy()) if grey else image
    semantic, pixel = SemanticView(size=64, mean=MEAN, std=STD), PixelView(size=64, mean=MEAN, std=STD, mirror=True)
    h, w = pixel.resized(*shape)
    squashed = np.asarray(pil_resized(image, (64, 64), Image.Resampling.BICUBIC))
    fitted = np.asarray(pil_resized(image, (w, h), Image.Resampling.BILINEAR))
    with ThreadPoolExecutor(3) as hands:
        for helpers in (None, hands):
            seen, looked, resized = both_views(image, semantic, pixel, helpers)
            np.testing.assert_array_equal(seen, semantic.filled(squashed))
            np.testing.assert_array_equal(looked, pixel.filled(fitted)[0])
            assert resized == (h, w)
    np.testing.assert_array_equal(semantic.apply(image), seen)
    np.testing.assert_array_equal(pixel.apply(image)[0], looked)


def test_what_fails_in_a_band_reaches_the_caller():
    """PIL refuses a side of no pixel, which a band has only if rows are counted wrongly."""
    semantic, pixel = SemanticView(size=64, mean=MEAN, std=STD), PixelView(size=64, mean=MEAN, std=STD)
    with ThreadPoolExecutor(2) as hands, pytest.raises(ValueError, match="height and width must be > 0"):
        both_views(np.zeros((600, 900, 3), np.uint8), semantic.model_copy(update={"size": 0}), pixel, hands)


def test_views_survive_json_and_refuse_unknown_fields():
    view = PixelView(size=256, mean=MEAN, std=STD)
    for each in (view, PixelView(size=256, mean=MEAN, std=STD, mirror=True)):
        assert PixelView.model_validate_json(each.model_dump_json()) == each
    with pytest.raises(ValidationError):
        PixelView(size=256, mean=MEAN, std=STD, crop=3)
