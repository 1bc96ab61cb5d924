"""Which normal image is the most similar one, and by which figures."""

from pathlib import Path

import numpy as np
import pytest

from agvas_runtime.errors import InputError
from agvas_train.data.instruct.gallery import NormalImages
from agvas_train.data.instruct.similar import Gallery, Look, look_of
from tests.train.instruct.small_sets import noise, write_image


def slow_ssim(one: np.ndarray, other: np.ndarray) -> float:
    """SSIM window by window, in double precision."""
    found = []
    for top in range(0, 57, 4):
        for left in range(0, 57, 4):
            x, y = (image[top : top + 8, left : left + 8].astype(float) for image in (one, other))
            shared = ((x - x.mean()) * (y - y.mean())).mean()
            light = (2 * x.mean() * y.mean() + 6.5025) / (x.mean() ** 2 + y.mean() ** 2 + 6.5025)
            found.append(light * (2 * shared + 58.5225) / (x.var() + y.var() + 58.5225))
    return float(np.mean(found))


def test_an_image_is_most_like_itself():
    [found] = Gallery([look_of(noise(0))]).compare(look_of(noise(0)))
    assert found.ssim == pytest.approx(1, abs=1e-5)
    assert found.distance == 0


def test_ssim_is_what_the_formula_says():
    looks = [look_of(noise(seed, 80)) for seed in range(3)] + [look_of(noise(0, 80) // 2), look_of(255 - noise(0, 80))]
    expected = [slow_ssim(looks[0].grey, look.grey) for look in looks]
    assert [found.ssim for found in Gallery(looks).compare(looks[0])] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("share", "distance"), [(0.0, 1.0), (0.5, (1 - 0.5**0.5) ** 0.5), (1.0, 0.0)])
def test_the_distance_is_bhattacharyyas(share: float, distance: float):
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 200
    mixed = red.copy()
    mixed[int(64 * share) :] = (0, 0, 200)
    [found] = Gallery([look_of(mixed)]).compare(look_of(red))
    assert found.distance == pytest.approx(distance, abs=1e-3)


def test_shares_of_colours_sum_up():
    look: Look = look_of(noise(5, 100))
    assert (look.colours**2).sum() == pytest.approx(1, abs=1e-5)


def test_the_most_similar_image_is_found_and_never_the_image_itself(tmp_path: Path):
    base, paths = noise(0), [tmp_path / f"{number}.png" for number in range(4)]
    for path, pixels in zip(paths, [base, noise(1), base + np.uint8(4), noise(2)], strict=True):
        write_image(path, pixels)
    normals = NormalImages({"part": paths})
    assert normals.most_similar("part", base, tmp_path / "other.png")[0] == paths[0]
    path, likeness = normals.most_similar("part", base, paths[0])
    assert path == paths[2]
    assert likeness.ssim > 0.9


def test_a_broken_normal_image_is_passed_over_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_image(tmp_path / "a.png", noise(0))
    (tmp_path / "b.png").write_bytes(b"no image")
    normals = NormalImages({"part": [tmp_path / "a.png", tmp_path / "b.png"]})
    assert normals.most_similar("part", noise(0), tmp_path / "c.png")[0] == tmp_path / "a.png"
    assert "b.png" in capsys.readouterr().err
    with pytest.raises(InputError, match="no other normal image"):
        normals.most_similar("part", noise(0), tmp_path / "a.png")
