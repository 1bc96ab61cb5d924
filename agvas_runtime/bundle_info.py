"""`agvas-runtime info`: what a verified bundle holds, as tables or as one JSON document."""

from typing import Any

from rich.table import Table

from agvas_runtime import console
from agvas_runtime.bundle import MANIFEST, Bundle
from agvas_runtime.engines.private import homes
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
    table.add_row("bundle", console.one_line(f"{manifest.name} ({facts['path']})"))
    table.add_row("sha256", f"{facts['bundle_sha256']} (manifest; all {len(manifest.files)} files verified)")
    table.add_row("size", f"{bundle.size_bytes / 1e6:.2f} MB")
    note = weights_note(manifest.source.random_weights, manifest.source.plant)
    table.add_row("source", f"preset {manifest.source.preset}{', ' if note else ''}{note}")
    table.add_row("checkpoint", manifest.source.checkpoint_sha256)
    table.add_row("licence", console.one_line(manifest.licence))
    table.add_row("instruction", manifest.prompt.default_instruction)
    table.add_row("templates", ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in facts["templates"].items()))
    table.add_row("mask", f"threshold {manifest.model.threshold:g}, alpha {manifest.model.alpha:g}")
    if whole := manifest.parity.get("whole"):
        table.add_row("parity", _short(whole))
    if plan := manifest.engine_plan:
        table.add_row("tensorrt", f"{plan.precision}: {', '.join(plan.graphs)}")
        table.add_row("engines", ", ".join(engines_here(bundle)) or "none yet: agvas-runtime build")
    table.add_row("made with", ", ".join(f"{tool} {version}" for tool, version in manifest.created_with.items()))
    out.print(table)
    graphs = Table(box=None, header_style="bold")
    for name in ("graph", "precision", "opset", "MB", "error", "inputs"):
        graphs.add_column(name, justify="right" if name in ("opset", "MB", "error") else "left")
    measured: Any = manifest.parity.get("graphs") or {}
    counted: set[str] = set()
    for name, graph in manifest.graphs.items():
        inputs = ", ".join(f"{spec.name}[{','.join(map(str, spec.shape))}]" for spec in graph.inputs)
        files = {graph.file, *graph.data} - counted
        counted |= files  # weights that two graphs share count once
        size = f"{sum(manifest.files[file].size for file in files) / 1e6:.2f}"
        error = f"{measured[name]['relative_error']:.1e}" if name in measured else ""
        graphs.add_row(name, graph.precision, str(graph.opset), size, error, inputs)
    out.print()
    out.print(graphs)


def engines_here(bundle: Bundle) -> list[str]:
    """Names of the folders of engines that were built here; `agvas-runtime build` checks what is in them."""
    found: set[str] = set()
    for home in homes(bundle):
        try:
            found |= {path.name for path in home.iterdir() if path.is_dir()}
        except FileNotFoundError:
            continue
        except OSError as error:
            found.add(f"{home} is not readable ({error.strerror})")
    return sorted(found)


def _short(value: object) -> str:
    """Figures with three digits; a dict as its entries, one inside another in brackets."""
    if isinstance(value, dict):
        entries = ((name, _short(item), isinstance(item, dict)) for name, item in value.items())
        return ", ".join(f"{name} ({text})" if nested else f"{name} {text}" for name, text, nested in entries)
    return f"{value:.3g}" if isinstance(value, float) else str(value)
