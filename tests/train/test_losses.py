"""The losses against their definitions."""

import torch
import torch.nn.functional as F

from agvas_train.losses import segmentation_loss, text_loss
from agvas_train.model.agmd import ANO, NOR, SEG


def test_text_loss_averages_within_a_sample_first() -> None:
    logits, targets = torch.randn(4, 7), torch.tensor([1, 2, 3, 4])
    samples = torch.tensor([0, 0, 0, 1])
    each = F.cross_entropy(logits, targets, reduction="none")
    expected = (each[:3].mean() + each[3]) / 2
    torch.testing.assert_close(text_loss(logits, targets, samples, 2), expected)


def test_perfect_maps_cost_nothing_and_inverted_ones_much() -> None:
    target = torch.zeros(1, 8, 8)
    target[:, 2:5, 3:6] = 1
    signs = torch.stack((1 - 2 * target, 2 * target - 1, 2 * target - 1), dim=1)
    valid = torch.ones(1, 8, 8, dtype=torch.bool)
    bce, dice = segmentation_loss(signs * 50, target, valid, (NOR, ANO, SEG))
    assert float(bce) < 1e-6
    assert float(dice) < 1e-5
    bce, dice = segmentation_loss(signs * -50, target, valid, (NOR, ANO, SEG))
    assert float(bce) > 100
    assert float(dice) > 2


def test_padding_does_not_count() -> None:
    target, valid = torch.rand(1, 6, 6).round(), torch.ones(1, 6, 6, dtype=torch.bool)
    valid[:, 4:] = False
    logits = torch.randn(1, 1, 6, 6)
    changed = logits.clone()
    changed[:, :, 4:] += 9
    for a, b in zip(
        segmentation_loss(logits, target * valid, valid, (SEG,)),
        segmentation_loss(changed, target * valid, valid, (SEG,)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_normal_anchor_learns_the_complement() -> None:
    target, valid = torch.zeros(1, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool)
    bce, _ = segmentation_loss(torch.full((1, 1, 4, 4), 30.0), target, valid, (NOR,))
    assert float(bce) < 1e-6


def test_a_false_alarm_where_there_is_nothing_goes_on_to_count_however_large_it_is() -> None:
    """The gradient of all its cells together, and nothing where there is none."""
    target, valid = torch.zeros(1, 64, 64), torch.ones(1, 64, 64, dtype=torch.bool)
    pulls = []
    for side in (4, 16, 48):
        logits = torch.full((1, 1, 64, 64), -30.0)
        logits[..., :side, :side] = 1.0
        logits.requires_grad_()
        segmentation_loss(logits, target, valid, (SEG,), 2.0)[1].backward()
        pulls.append(float(logits.grad.sum()))
    assert max(pulls) < 1.2 * min(pulls)
    _, dice = segmentation_loss(torch.full((1, 1, 64, 64), -30.0), target, valid, (SEG,), 2.0)
    assert float(dice) < 1e-6


def test_false_alarms_count_where_there_is_nothing_and_nowhere_else() -> None:
    target, valid = torch.zeros(2, 8, 8), torch.ones(2, 8, 8, dtype=torch.bool)
    target[1, 2:5, 3:6] = 1
    logits = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    present = (NOR, ANO, SEG)
    without, with_them = (segmentation_loss(logits, target, valid, present, weight)[1] for weight in (0.0, 2.0))
    sums = torch.sigmoid(logits[0, 1:]).sum(dim=(-2, -1))  # of ANO and SEG; NOR's target is never empty here
    torch.testing.assert_close(with_them - without, 2.0 * torch.log1p(sums).sum() / 2)
