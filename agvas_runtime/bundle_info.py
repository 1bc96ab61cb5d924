"""`agvas-runtime info`: what a verified bundle holds, as tables or as one JSON document."""

from typing import Any

from rich.table import Table

from agvas_runtime import console
from agvas_runtime.bundle import MANIFEST, Bundle
from agvas_runtime.hashing import sha256_file
from agvas_runtime.manifest import weights_note
from agvas_runtime.templates import read_templates


def summary(bundle: Bundle) -> dict[str, Any]:
    """The manifest with the bundle's own path, hash, size and its number of templates."""
    templates = read_templates(bundle.templates)
    return {
        "path": str(bundle.folder),
        "bundle_sha256": sha256_file(bundle.folder / MANIFEST),
        "size_bytes": bundle.size_bytes,
        "templates": {
            name: len(set(getattr(templates, name)))
            for name in ("direct_instructions", "direct_answers", "rejections", "class_names")
        },
        **bundle.manifest.model_dump(mode="json"),
    }


def print_bundle(bundle: Bundle) -> None:
    """Print the summary for people."""
    facts, manifest = summary(bundle), bundle.manifest
    out = console.output()
    table = Table(box=None, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("bundle", f"{manifest.name} ({facts['path']})")
    table.add_row("sha256", f"{facts['bundle_sha256']} (manifest; all {len(manifest.files)} files verified)")
    table.add_row("size", f"{bundle.size_bytes / 1e6:.2f} MB")
    note = weights_note(manifest.source.random_weights, manifest.source.plant)
    table.add_row("source", f"preset {manifest.source.preset}{', ' if note else ''}{note}")
    table.add_row("checkpoint", manifest.source.checkpoint_sha256)
    table.add_row("licence", manifest.licence)
    table.add_row("instruction", manifest.prompt.default_instruction)
    table.add_row("templates", ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in facts["templates"].items()))
    table.add_row("mask", f"threshold {manifest.model.threshold:g}, alpha {manifest.model.alpha:g}")
    table.add_row("parity", _short(manifest.parity))
    table.add_row("made with", ", ".join(f"{tool} {version}" for tool, version in manifest.created_with.items()))
    out.print(table)
    graphs = Table(box=None, header_style="bold")
    for name in ("graph", "precision", "opset", "MB", "inputs"):
        graphs.add_column(name, justify="right" if name in ("opset", "MB") else "left")
    for name, graph in manifest.graphs.items():
        inputs = ", ".join(f"{spec.name}\\[{','.join(map(str, spec.shape))}]" for spec in graph.inputs)
        size = f"{manifest.files[graph.file].size / 1e6:.2f}"
        graphs.add_row(name, graph.precision, str(graph.opset), size, inputs)
    out.print()
    out.print(graphs)


def _short(value: object) -> str:
    """Figures with three digits; a dict as its entries, one inside another in brackets."""
    if isinstance(value, dict):
        entries = ((name, _short(item), isinstance(item, dict)) for name, item in value.items())
        return ", ".join(f"{name} ({text})" if nested else f"{name} {text}" for name, text, nested in entries)
    return f"{value:.3g}" if isinstance(value, float) else str(value)
