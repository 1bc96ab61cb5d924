"""The folded convolutions compute what the encoder computes, and leave nothing of standardisation in the graph."""

from collections import Counter
from collections.abc import Callable

import onnx_ir as ir
import torch

from agvas_export.conv import FoldedConvEncoder
from agvas_train.model.conv_encoder import ConvEncoder, ConvEncoderConfig, StandardConv


@torch.no_grad()
def test_folded_kernels_compute_the_same() -> None:
    torch.manual_seed(0)
    config = ConvEncoderConfig(image_size=96, widths=(8, 16, 24, 32), output_channels=24, fine=True)
    encoder = ConvEncoder(config).eval()
    for name, parameter in encoder.named_parameters():
        if name.endswith(("gain", "bias")):
            parameter.add_(torch.randn_like(parameter) * 0.3)
    folded = FoldedConvEncoder(encoder)
    assert not any(isinstance(module, StandardConv) for module in folded.modules())
    assert any(isinstance(module, StandardConv) for module in encoder.modules())
    pixels = torch.randn(2, 3, 96, 96)
    torch.testing.assert_close(folded(pixels), encoder(pixels).last_hidden_state, rtol=1e-4, atol=1e-5)


def test_the_graph_holds_convolutions_and_norms_of_images_alone(model_of: Callable[..., ir.Model]) -> None:
    found = Counter(node.op_type for node in model_of("pixel_encoder").graph)
    assert found["Conv"] == 14
    assert found["InstanceNormalization"] == 10
    assert found["Reciprocal"] == 0
    assert found["AveragePool"] == 1  # of the attention's keys: box means are sums of shifted pictures
    assert found["ReduceMean"] <= 1  # of the image's own contrast
