"""L = L_txt + L_seg (paper, section B.2), from logits, in float32."""

from __future__ import annotations

from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from agvas_train.model.agmd import NOR

BCE_WEIGHT, DICE_WEIGHT = 0.5, 2.0  # lambda_bce, lambda_dic


def text_loss(logits: Tensor, targets: Tensor, samples: Tensor, count: int, weights: Tensor | None = None) -> Tensor:
    """Next-token cross-entropy: the mean over each sample's answer tokens, then over the samples (ours).

    Args:
        logits: [M, vocabulary], one row for each answer token of the batch.
        targets: int64 [M].
        samples: int64 [M], the sample a token belongs to.
        count: samples in the batch, each with at least one token.
        weights: how often each token counts, [M]; None: once.
    """
    losses = F.cross_entropy(logits.float(), targets, reduction="none")
    lengths = torch.zeros(count, device=losses.device).index_add_(0, samples, torch.ones_like(losses))
    weighted = losses if weights is None else losses * weights
    return (weighted / lengths[samples]).sum() / count


def place_loss(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Cross-entropy of whether a defect lies at the place of each aligned token: the mean over each sample's tokens
    that count, then over all samples; one of which none counts adds nothing.

    Args:
        logits: [B, N], of a square grid of tokens.
        target: defects' mask [B, H, W] in [0, 1], of which each token has the largest value at its place.
        valid: bool [B, H, W]; tokens without a cell that counts do not count.
    """
    side = isqrt(logits.shape[1])
    weight = F.adaptive_max_pool2d(valid[:, None].float(), side).flatten(1)
    here = F.adaptive_max_pool2d((target * valid)[:, None], side).flatten(1)
    losses = F.binary_cross_entropy_with_logits(logits.float(), here, reduction="none")
    return ((losses * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)).mean()


def segmentation_loss(
    logits: Tensor, target: Tensor, valid: Tensor, present: tuple[int, ...], false_alarms: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The sum over the present anchors of BCE and of Dice, averaged over the samples and not yet weighted.

    Dice's numerator and denominator have 1 cell more, so that an empty map is right about an empty mask (ours): a
    wholly missed defect of one cell costs half of what a large one does. Where the target is empty, that Dice is flat
    for a large false alarm; `false_alarms` times log(1 + sum) is added there, whose pull does not fade (ours).

    Args:
        logits: of P_c, [B, A, H, W].
        target: the anomaly (or object) mask [B, H, W] in [0, 1]; a cell at an edge holds the share that is covered.
        valid: bool [B, H, W], False on padding.
        present: the anchors that `logits` holds; the target of NOR is 1 - M.
        false_alarms: see above, 0 or more.
    """
    logits = logits.float()
    targets = torch.stack([1 - target if anchor == NOR else target for anchor in present], dim=1)
    weight = valid[:, None].float()
    area = weight.sum(dim=(-2, -1)).clamp(min=1)  # B, 1; a sample may have no cell that counts
    bce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    bce = ((bce * weight).sum(dim=(-2, -1)) / area).sum(dim=1).mean()
    probability, targets = torch.sigmoid(logits) * weight, targets * weight
    overlap = (probability * targets).sum(dim=(-2, -1))
    total = probability.sum(dim=(-2, -1)) + targets.sum(dim=(-2, -1))
    dice = 1 - (2 * overlap + 1) / (total + 1)
    empty = targets.sum(dim=(-2, -1)) == 0
    dice = (dice + false_alarms * torch.where(empty, torch.log1p(total), 0)).sum(dim=1).mean()
    return bce, dice
