"""The embedded default's pixel encoder: shapes, what its contrast channels are, and that signals keep their size."""

import pytest
import torch
import torch.nn.functional as F

from agvas_train.model.conv_encoder import (
    ConvEncoder,
    ConvEncoderConfig,
    StandardConv,
    _active,
    _box_means,
    _with_contrast,
    fine_features,
)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return ConvEncoder(ConvEncoderConfig(image_size=96, widths=(8, 16, 24, 32), output_channels=24)).eval()


def test_features_have_an_eighth_of_the_image_s_side(encoder):
    found = encoder(torch.randn(2, 3, 96, 96)).last_hidden_state
    assert found.shape == (2, 24, 12, 12)
    assert found.isfinite().all()


@torch.no_grad()
def test_finer_features_are_packed_behind_and_lie_where_they_were(encoder):
    fine = ConvEncoder(ConvEncoderConfig(image_size=96, widths=(8, 16, 24, 32), output_channels=24, fine=True)).eval()
    missing = fine.load_state_dict(encoder.state_dict(), strict=False).missing_keys
    assert {name.split(".")[0] for name in missing} == {"from_quarter", "from_half"}
    image = torch.randn(2, 3, 96, 96)
    found = fine(image).last_hidden_state
    assert torch.equal(found[:, :24], encoder(image).last_hidden_state)
    quarter, half = fine_features(found[:, 24:])
    stem = _active(fine.stem(_with_contrast(image)))
    torch.testing.assert_close(half, fine.from_half(stem))
    torch.testing.assert_close(quarter, fine.from_quarter(_active(fine.quarter(stem))))
    assert (quarter.shape, half.shape) == ((2, 6, 24, 24), (2, 3, 48, 48))


def test_another_stride_is_refused():
    with pytest.raises(ValueError, match="patch_size is 16, must be 8"):
        ConvEncoderConfig(patch_size=16)
    with pytest.raises(ValueError, match="image_size is 304, must be a multiple of 32"):
        ConvEncoderConfig(image_size=304)


def test_what_is_active_knows_neither_brightness_nor_contrast():
    image = torch.randn(2, 5, 24, 24)
    assert torch.allclose(_active(image), _active(3 * image + 0.7), atol=1e-2)
    assert not torch.allclose(_active(image)[0], F.relu(image)[0], atol=1e-2)
    halves = torch.cat((image, image + torch.linspace(0, 9, 24)), dim=-1)
    assert not torch.allclose(_active(halves)[..., :24], _active(image), atol=0.1)  # the whole image counts


@torch.no_grad()
def test_fresh_weights_keep_signals_about_their_size(encoder):
    spread = encoder(torch.randn(4, 3, 96, 96)).last_hidden_state.std()
    assert 0.3 < spread < 4


@pytest.mark.parametrize("size", [(64, 96), (40, 56), (32, 32)])
def test_the_boxes_means_are_those_of_the_pixels_that_there_are(size):
    image = torch.randn(2, 1, *size)
    for found, side in zip(_box_means(image), (9, 33), strict=True):
        square = F.avg_pool2d(image, side, 1, side // 2, count_include_pad=False)
        torch.testing.assert_close(found, square, atol=1e-6, rtol=1e-4)


def test_contrast_channels_do_not_know_the_brightness():
    image = torch.randn(1, 3, 64, 64)
    assert torch.allclose(_with_contrast(image)[:, 3:], _with_contrast(image + 0.7)[:, 3:], atol=1e-4)
    assert torch.equal(_with_contrast(image)[:, :3], image)


def test_the_last_channel_does_not_know_the_contrast_either():
    image = torch.randn(1, 3, 64, 64)
    assert torch.allclose(_with_contrast(image)[:, 5], _with_contrast(3 * image)[:, 5], atol=1e-2)


@torch.no_grad()
def test_kernels_are_standardised_whatever_their_values():
    conv = StandardConv(8, 16, gain=1.0)
    image = torch.randn(4, 8, 32, 32)
    before = conv(image)
    conv.weight.mul_(5).add_(0.3)
    assert torch.allclose(conv(image) - conv.bias[:, None, None], before - conv.bias[:, None, None], atol=2e-2)
    assert before[..., 1:-1, 1:-1].var() == pytest.approx(1, rel=0.2)


def test_every_weight_has_a_gradient_but_biases_that_norms_take_away():
    encoder = ConvEncoder(ConvEncoderConfig(image_size=64, widths=(8, 16, 24, 32), output_channels=24, fine=True))
    encoder(torch.randn(2, 3, 64, 64)).last_hidden_state.square().sum().backward()
    largest = {name: float(parameter.grad.abs().max()) for name, parameter in encoder.named_parameters()}
    idle = {name for name, gradient in largest.items() if gradient < 1e-3}
    assert all(name.endswith("bias") for name in idle), idle
    assert not {name for name in idle if name.startswith(("from_", "merge"))}
