"""The forward pass of training as one module, so that it can be wrapped for several processes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agvas_runtime.prompts import Prompter
from agvas_train.data.batch import Batch
from agvas_train.data.synth.captions import PLACE_WORDS
from agvas_train.losses import BCE_WEIGHT, DICE_WEIGHT, place_loss, segmentation_loss, text_loss
from agvas_train.model import AGVAS
from agvas_train.model.agmd import ANO, NOR, SEG, map_logits

ANCHOR_SETS = ((NOR, ANO, SEG), (SEG,))
"""What answers hold: anomalies name all three anchors, objects the absolute one alone (paper, section B.2)."""


class TrainingStep(nn.Module):
    """AG-VAS and its losses.

    L_txt counts `text_weight` times, the maps' cross-entropy `bce_weight` times, and `place_weight` times whether the
    aligned tokens are more like [ANO]'s embedding than like [NOR]'s where a defect lies; words for places count so
    often, too, besides the once of every word.

    Args:
        prompter: the checkpoint's tokenizer.
    """

    def __init__(
        self,
        model: AGVAS,
        prompter: Prompter,
        text_weight: float = 1.0,
        bce_weight: float = BCE_WEIGHT,
        place_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.relative = [prompter.anchor_ids[ANO], prompter.anchor_ids[NOR]]
        words = [prompter.answer(word, anchors=False)[:-1] for word in PLACE_WORDS]
        whole = {word[0] for word in words if len(word) == 1}  # pieces of what is cut smaller are other words', too
        self.place_ids = sorted(whole | {word[1] for word in words if len(word) == 2 and word[0] in whole})
        self.text_weight, self.bce_weight, self.place_weight = text_weight, bce_weight, place_weight

    def forward(self, batch: Batch, false_alarms: float = 0.0) -> dict[str, Tensor]:
        """The losses of a batch: text, bce, dice, place if it counts, and loss, their weighted sum."""
        model, count = self.model, len(batch.texts)
        visual = model.encode(batch.semantic, batch.pixel)
        before = model.embed(batch.before).expand(count, -1, -1)
        embeds = torch.cat((before, visual.tokens.to(before.dtype), model.embed(batch.texts)), dim=1)
        first_text = before.shape[1] + visual.tokens.shape[1]
        states = model.hidden_states(embeds)[:, first_text:]  # B, L, d
        logits = model.logits(states[batch.predictor_sample, batch.predictor_position])
        weights = None
        if self.place_weight:
            places = torch.tensor(self.place_ids, device=logits.device)
            weights = 1 + self.place_weight * torch.isin(batch.predicted, places).to(logits.dtype)
        text = text_loss(logits, batch.predicted, batch.predictor_sample, count, weights)
        bce, dice = text.new_zeros(()), text.new_zeros(())
        for present in dict.fromkeys((*ANCHOR_SETS, *batch.anchor_samples)):
            samples, positions, share = _of(batch, present)
            anchors = states[samples[:, None], positions]  # K, A, d
            products = model.products(anchors, visual.pixel[samples], present).float()
            part = segmentation_loss(
                map_logits(products, present), batch.target[samples], batch.valid[samples], present, false_alarms
            )
            bce, dice = bce + share * part[0], dice + share * part[1]
        losses = {"text": text, "bce": bce, "dice": dice}
        loss = self.text_weight * text + self.bce_weight * bce + DICE_WEIGHT * dice
        if self.place_weight:
            losses["place"] = self._place(visual.tokens, batch)
            loss = loss + self.place_weight * losses["place"]
        return {"loss": loss, **losses}

    def _place(self, visual: Tensor, batch: Batch) -> Tensor:
        aligned = visual[:, -(visual.shape[1] // 2) :]  # behind as many semantic tokens, and perhaps a newline
        ano, nor = self.model.embed(torch.tensor(self.relative, device=visual.device))
        known = batch.valid & batch.tells_defects[:, None, None]
        return place_loss(aligned @ (ano - nor), batch.target, known)


def _of(batch: Batch, present: tuple[int, ...]) -> tuple[Tensor, Tensor, float]:
    """The samples [K] with this set of anchors, their places [K, A], and their share of the batch.

    Without any, sample 0 with share 0: several processes must all run the same layers, whatever their samples hold.
    """
    if present in batch.anchor_samples:
        samples = batch.anchor_samples[present]
        return samples, batch.anchor_positions[present], len(samples) / len(batch.texts)
    none = torch.zeros(1, len(present), dtype=torch.int64, device=batch.texts.device)
    return none[:, 0], none, 0.0
