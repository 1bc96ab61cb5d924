"""Which optimiser takes which parameter."""

from __future__ import annotations

import torch
from torch import nn

from agvas_train.config import TrainConfig
from agvas_train.model import AGVAS
from agvas_train.model.conv_encoder import StandardConv
from agvas_train.muon import Muon


def make_optimizers(model: AGVAS, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW for all trainable parameters; or Muon for the matrices of layers and AdamW for the rest.

    Muon's steps are scaled to the size of AdamW's, so that one learning rate suits both. Embeddings are AdamW's.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = _matrices(model) if config.optimizer == "muon" else []
    known = set(matrices)
    rest = [p for p in trained if p not in known]
    rate, decay = config.learning_rate, config.weight_decay
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, lr=rate, weight_decay=decay)]
    if matrices:
        optimizers.append(Muon(matrices, lr=rate, weight_decay=decay))
    return optimizers


def _matrices(model: AGVAS) -> list[nn.Parameter]:
    """Weights of linear layers and of standardised convolutions; the head that shares the embeddings is none."""
    head = model.llava.get_output_embeddings()
    layers = (m for m in model.modules() if isinstance(m, nn.Linear | StandardConv) and m is not head)
    return [layer.weight for layer in layers if layer.weight.requires_grad]
