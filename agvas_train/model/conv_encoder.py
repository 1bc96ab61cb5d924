"""The embedded default's pixel encoder: convolutions for what is thin and tiny, attention for what repeats.

A network of half a million weights that is trained from scratch in minutes on a GPU learns edges and spots from
convolutions far sooner than from SAM's patches. Before each nonlinearity every channel is normalised by its own mean
and deviation over the view: what the network sees of a place is how it differs from the rest of the same image, which
is what makes it anomalous, and it trebled what is found on surfaces that training never draws (docs/experiments.md).
Padding counts in these means, so a long frame in a view that is not mirrored (`pixel_view.mirror`) looks less like what
was learnt.

Kernels are standardised (Qiao et al., "Micro-batch training with batch-channel normalization and weight
standardization", 2019). Only full 3 x 3 convolutions: what is spared by separable ones costs several times as much on a
CPU.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from agvas_train.model.places import CODE, place_codes

RELU_GAIN = 1.7139
"""Brings the variance of what ReLU leaves of standard normal inputs back to 1."""
NORM_EPSILON = 1e-3
MULTIPLE = 32
"""Of which a view's side is: the coarsest features are halved once more, as the attention's keys."""
LUMA = (0.299, 0.587, 0.114)
NEAR, FAR = 9, 33
"""Sides of the boxes around a pixel whose mean it is compared with, pixels."""


class ConvEncoderConfig(PreTrainedConfig):
    """Sizes of a `ConvEncoder`; `patch_size` is the stride of its features, 8.

    Raises ValueError for another stride, and for an `image_size` that is no multiple of 32.
    """

    model_type = "agvas_conv"

    def __init__(
        self,
        image_size: int = 288,
        patch_size: int = 8,
        widths: tuple[int, int, int, int] = (16, 32, 64, 128),
        blocks: tuple[int, int, int] = (1, 2, 2),
        num_attention_heads: int = 4,
        output_channels: int = 64,
        fine: bool = False,
        **kwargs: Any,
    ) -> None:
        if patch_size != 8:
            raise ValueError(f"patch_size is {patch_size}, must be 8")
        if image_size % MULTIPLE:
            raise ValueError(f"image_size is {image_size}, must be a multiple of {MULTIPLE}")
        self.image_size = image_size
        self.patch_size = patch_size
        self.widths = tuple(widths)
        """Channels at a half, a quarter, an eighth and a sixteenth of the image's side."""
        self.blocks = tuple(blocks)
        """Blocks at a quarter, an eighth and a sixteenth."""
        self.num_attention_heads = num_attention_heads
        self.output_channels = output_channels
        self.fine = fine
        """Whether what is finer than the features comes along, packed behind them."""
        super().__init__(**kwargs)


class StandardConv(nn.Module):
    """A convolution whose kernels have mean 0 and keep the variance of their input, times a learned gain.

    `weight` is a matrix, [outputs, inputs * kernel * kernel], as an optimiser for matrices wants it. Where all that
    reads the output is normalised, `bias` changes nothing, and its gradient is rounding.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, gain: float = RELU_GAIN) -> None:
        super().__init__()
        self.shape, self.stride, self.padding = (outputs, inputs, kernel, kernel), stride, kernel // 2
        self.first_gain = gain
        self.weight = nn.Parameter(torch.empty(outputs, inputs * kernel * kernel))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.gain = nn.Parameter(torch.empty(outputs, 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the kernels anew."""
        bound = self.weight.shape[1] ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.zeros_(self.bias)
        nn.init.constant_(self.gain, self.first_gain)

    def kernel(self) -> Tensor:
        """The kernel that is convolved with, [outputs, inputs, kernel, kernel]."""
        variance, mean = torch.var_mean(self.weight, dim=1, keepdim=True, correction=0)
        scale = torch.rsqrt(variance * self.weight.shape[1] + 1e-4) * self.gain
        return ((self.weight - mean) * scale).view(self.shape)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        return F.conv2d(x, self.kernel(), self.bias, self.stride, self.padding)


def _active(x: Tensor) -> Tensor:
    """Each channel of each view [B, C, H, W] less its mean, over its deviation; then ReLU."""
    return F.relu(F.instance_norm(x, eps=NORM_EPSILON))


class Residual(nn.Module):
    """Normalisation, ReLU and a convolution, added to what came in by a learned weight a channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = StandardConv(width, width)
        self.weight = nn.Parameter(torch.empty(1, width, 1, 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Let in a little of the convolution."""
        nn.init.constant_(self.weight, 0.3)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C, H, W]."""
        return x + self.weight * self.conv(_active(x))


class AttentionBlock(nn.Module):
    """Every place learns where it is and asks the whole image, at half its resolution, what is like itself; an MLP.

    Places of the view, padding included.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.place = nn.Linear(CODE, width, bias=False)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.o_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.lin1, self.lin2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C, H, W]."""
        codes = place_codes(*x.shape[-2:], x.device).to(x.dtype)
        flat = x.flatten(2).transpose(1, 2) + self.place(codes)
        normed = self.norm1(flat)
        pooled = F.avg_pool2d(normed.transpose(1, 2).unflatten(2, x.shape[-2:]), 2).flatten(2).transpose(1, 2)
        q, k, v = self._heads(self.q_proj(normed)), self._heads(self.k_proj(pooled)), self._heads(self.v_proj(pooled))
        flat = flat + self.o_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        flat = flat + self.lin2(F.relu(self.lin1(self.norm2(flat))))
        return flat.transpose(1, 2).unflatten(2, x.shape[-2:])

    def _heads(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, -1, (self.heads, -1)).transpose(1, 2)


class ConvEncoder(PreTrainedModel):
    """Images [B, 3, P, P], P a multiple of 32, to features [B, C, P / 8, P / 8], C the `output_channels`.

    With `fine` C / 4 channels of a quarter and C / 8 of a half of the image's side are packed behind them, which makes
    4 C: the mask decoder adds them where it upscales (`fine_features`), since a scratch is thinner than 8 pixels.
    """

    config_class = ConvEncoderConfig
    main_input_name = "pixel_values"

    def __init__(self, config: ConvEncoderConfig) -> None:
        super().__init__(config)
        half, quarter, eighth, coarse = config.widths
        fine, middle, deep = config.blocks
        out = config.output_channels
        self.stem = StandardConv(6, half, stride=2, gain=1.0)
        self.quarter = nn.Sequential(StandardConv(half, quarter, stride=2), *(Residual(quarter) for _ in range(fine)))
        self.eighth = nn.Sequential(StandardConv(quarter, eighth, stride=2), *(Residual(eighth) for _ in range(middle)))
        self.coarse = nn.Sequential(
            StandardConv(eighth, coarse, stride=2),
            *(Residual(coarse) for _ in range(deep)),
            AttentionBlock(coarse, config.num_attention_heads),
        )
        self.from_eighth, self.from_coarse = StandardConv(eighth, out, 1), StandardConv(coarse, out, 1)
        self.merge = Residual(out)
        self.from_quarter = StandardConv(quarter, out // 4, 1) if config.fine else None
        self.from_half = StandardConv(half, out // 8, 1) if config.fine else None
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Convolutions have torch's own, which are standardised anyway."""
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, pixel_values: Tensor) -> BaseModelOutput:
        """The features as `last_hidden_state`."""
        half = _active(self.stem(_with_contrast(pixel_values)))
        quarter = _active(self.quarter(half))
        eighth = _active(self.eighth(quarter))
        coarse = self.from_coarse(_active(self.coarse(eighth)))
        upsampled = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
        features = self.merge(upsampled + self.from_eighth(eighth))
        if self.from_quarter is not None and self.from_half is not None:
            fine = (F.pixel_unshuffle(self.from_quarter(quarter), 2), F.pixel_unshuffle(self.from_half(half), 4))
            features = torch.cat((features, *fine), dim=1)
        return BaseModelOutput(last_hidden_state=features)


def fine_features(packed: Tensor) -> tuple[Tensor, Tensor]:
    """What `ConvEncoder` packed behind its features, [B, 3 C, g, g]: [B, C / 4, 2 g, 2 g] and [B, C / 8, 4 g, 4 g]."""
    width = packed.shape[1] // 3
    return F.pixel_shuffle(packed[:, :width], 2), F.pixel_shuffle(packed[:, width:], 4)


def _with_contrast(pixels: Tensor) -> Tensor:
    """An image [B, 3, P, P] and three channels more: brightness less the mean of a small and of a large box around it,
    and the latter in units of the image's own contrast."""
    grey = (pixels * pixels.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
    near, far = (grey - mean for mean in _box_means(grey))
    usual = far.square().mean(dim=(2, 3), keepdim=True).add(1e-4).sqrt()
    return torch.cat((pixels, 2 * near, far, far / usual), dim=1)


def _box_means(x: Tensor) -> tuple[Tensor, Tensor]:
    """The means of what there is of the near and of the far box around each pixel of [B, C, H, W].

    Rows, then columns, each as a few sums of shifted pictures: a pooling of 33 takes most of a frame's time on a CPU.
    """
    near, far = _line_means(x, 2)
    return _line_means(near, 3)[0], _line_means(far, 3)[1]


def _line_means(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """The means of the 9 and of the 33 values around each along an axis, without what lies outside."""
    length, reach = x.shape[axis], FAR // 2
    padded = F.pad(x, (0, 0, reach, reach) if axis == 2 else (reach, reach))

    def piece(of: Tensor, start: int, length: int) -> Tensor:
        return of.narrow(axis, start, length)

    def three(of: Tensor, apart: int) -> Tensor:
        left = of.shape[axis] - 2 * apart
        return (piece(of, 0, left) + piece(of, apart, left) + piece(of, 2 * apart, left)) / 3

    of_3 = three(padded, 1)
    of_9 = three(of_3, 3)
    of_27 = three(of_9, 9)
    outer = piece(of_3, 0, length) + piece(of_3, FAR - 3, length)
    near = piece(of_9, reach - NEAR // 2, length)
    far = (27 * piece(of_27, 3, length) + 3 * outer) / FAR
    return near * _edges(x, axis, NEAR), far * _edges(x, axis, FAR)


def _edges(x: Tensor, axis: int, side: int) -> Tensor:
    """What makes up for the part of a box that lies outside: its side over what of it lies inside, along an axis."""
    place = torch.arange(x.shape[axis], device=x.device)
    inside = place.clamp(max=side // 2) + place.flip(0).clamp(max=side // 2) + 1
    return (side / inside).to(x.dtype).unflatten(0, (-1, 1) if axis == 2 else (1, -1))
