"""What a model costs, as a table for people and as JSON."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from agvas_runtime import console
from agvas_runtime.manifest import weights_note
from agvas_train.checkpoint import CheckpointInfo
from agvas_train.model import ModelConfig
from agvas_train.model.cost import PartCost
from agvas_train.model.pixel_encoders import pixel_encoder_name


def cost_report(config: ModelConfig, costs: list[PartCost], info: CheckpointInfo | None) -> dict[str, Any]:
    """Parameters, bytes and FLOPs of every part, and what the checkpoint says of itself."""
    provenance = info.provenance if info else {}
    return {
        "preset": config.preset,
        "pixel_encoder": pixel_encoder_name(config),
        "visual_tokens": config.visual_tokens,
        "parts": [cost.as_json() for cost in costs],
        "random_weights": bool(provenance.get("random_weights", False)),
        "plant": provenance.get("plant"),
        "dtype": info.config.dtype if info else None,
    }


def print_cost(report: dict[str, Any]) -> None:
    """The table of `cost_report`."""
    title = f"{report['preset']} with {report['pixel_encoder']}: a frame, {report['visual_tokens']} visual tokens"
    table = Table(title=title, title_justify="left")
    table.add_column("part")
    for head in ("parameters", "MiB in bf16", "GFLOP"):
        table.add_column(head, justify="right")
    for row in report["parts"]:
        cells = (
            f"{row['parameters'] / 1e6:,.1f} M",
            f"{row['bytes_bf16'] / 2**20:,.0f}",
            f"{row['flops'] / 1e9:,.1f}",
        )
        table.add_row(row["part"], *cells, style="bold" if row["part"] == "total" else "")
    output = console.output()
    output.print(table)
    if note := weights_note(report["random_weights"], report["plant"]):
        output.print(note, markup=False, highlight=False)
