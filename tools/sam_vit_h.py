"""SAM ViT-H through the export at full size: external data, run in ONNX Runtime, compared with the library.

Random weights, two images. Prints JSON: seconds, bytes, errors in float32 and in typed half precision.
"""

import json
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from agvas_export.graphs import Graph, PixelEncoderGraph
from agvas_export.half import to_half
from agvas_export.onnx_graph import WeightFiles, onnx_graph
from agvas_export.proof import SEED, prove_graph
from agvas_export.trace import Trace
from agvas_train.data.synth import generate
from agvas_train.model.pixel_encoders import CLASSES, PIXEL_ENCODERS, feature_map

IMAGES = 2


class Encoder(nn.Module):
    """What `PixelEncoderGraph` wants of a model."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        chosen = PIXEL_ENCODERS["sam-vit-h"]
        configuration, network = CLASSES[chosen.kind]
        self.pixel_encoder = network(configuration(**chosen.fields)).eval()
        for name, parameter in self.pixel_encoder.named_parameters():
            if "rel_pos" in name or "pos_embed" in name:  # the library begins with zeros
                nn.init.normal_(parameter, std=0.02)
        self.pixel_projection = nn.Identity()  # the neck has the mask decoder's 256 channels already


def main() -> None:
    """Export, prove, print."""
    work = Path(sys.argv[1]) / "sam-vit-h"
    encoder = Encoder()
    view = PIXEL_ENCODERS["sam-vit-h"].view
    graph = Graph(
        "pixel_encoder",
        PixelEncoderGraph(encoder, "sam"),
        lambda pixels: (feature_map(encoder.pixel_encoder, pixels),),
        {"pixels": torch.zeros(2, 3, view.size, view.size)},
        ("features",),
        {"pixels": {0: "B"}},
    )
    traces = []
    for index in range(IMAGES):
        pixels = view.apply(generate(SEED, index).image)[0]
        with torch.inference_mode():
            (features,) = graph.reference(torch.from_numpy(pixels))
        traces.append(Trace({graph.name: {"pixels": pixels}}, {graph.name: {"features": features.numpy()}}))
    report: dict[str, Any] = {"images": IMAGES, "weights": "random"}
    for precision in ("fp32", "fp16"):
        began = time.perf_counter()
        folder = work / precision
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        model = onnx_graph(graph)
        files = WeightFiles(folder).write(graph.name, to_half(model) if precision == "fp16" else model)
        del model
        written = time.perf_counter() - began
        parity = prove_graph(folder / f"{graph.name}.onnx", precision, traces)
        parity.check(graph.name, random_weights=True)
        report[precision] = {
            "export_seconds": written,
            "external_data": {file: (folder / file).stat().st_size for file in files},
            "parity": {key: value for key, value in vars(parity).items() if value is not None},
        }
        shutil.rmtree(folder)
    report["peak_resident_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps(report))


if __name__ == "__main__":
    main()
