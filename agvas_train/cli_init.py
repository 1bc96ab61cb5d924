"""`agvas-train init` and `agvas-train info`: base checkpoints, and what a model costs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agvas_runtime import console
from agvas_runtime.errors import InputError
from agvas_runtime.manifest import weights_note

if TYPE_CHECKING:
    from agvas_train.checkpoint import CheckpointInfo


LARGEST_SEED = 2**63 - 1


def init(
    preset: Annotated[str, typer.Option(help="tiny, 0.5b or 7b.")],
    out: Annotated[Path, typer.Option(help="Folder of the base checkpoint; must be new.")],
    llava: Annotated[
        str | None, typer.Option(help="LLaVA-OneVision: folder in the hub's layout, or hub id (org/name).")
    ] = None,
    pixel: Annotated[
        str | None, typer.Option(help="Pixel encoder: SAM's .pth, a folder in the hub's layout, or hub id.")
    ] = None,
    pixel_encoder: Annotated[
        str | None, typer.Option(help="Another pixel encoder than the preset's: sam-vit-l, dinov2-vit-l-14, ...")
    ] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch hub ids that the local cache lacks.")] = False,
    random_weights: Annotated[
        int | None,
        typer.Option(min=0, max=LARGEST_SEED, help="Random weights from this seed instead of released ones."),
    ] = None,
    plant: Annotated[
        str | None, typer.Option(help="With --random-weights: make greedy decoding write this answer or rejection.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of AG-VAS's own fresh parts beside released backbones.")
    ] = 0,
    dtype: Annotated[
        str | None, typer.Option(help="float32 or bfloat16 [default: bfloat16, from scratch: float32].")
    ] = None,
    by_reference: Annotated[
        bool, typer.Option("--by-reference", help="Leave the backbones' tensors in their files; record their hashes.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    r"""Make a base checkpoint: released backbones (or random weights) with fresh parts of AG-VAS around them.

    \b
    Examples:
      agvas-train init --preset 7b --llava llava-onevision-qwen2-7b-ov-hf --pixel sam_vit_h_4b8939.pth --out base
      agvas-train init --preset 0.5b --random-weights 0 --plant "Sure, it is [NOR][ANO][SEG]." --out random
    """
    import torch

    from agvas_train.assemble import backbone_base, planted_base, random_base
    from agvas_train.checkpoint import DTYPES, require_new, write_checkpoint
    from agvas_train.model import FROM_SCRATCH
    from agvas_train.weights.load import named_tensors
    from agvas_train.weights.reader import in_memory

    began = time.perf_counter()
    config = _model_config(preset, pixel_encoder)
    dtype = dtype or ("float32" if preset in FROM_SCRATCH else "bfloat16")
    require_new(out)
    if dtype not in DTYPES:
        raise InputError(f"--dtype {dtype}: expected one of {', '.join(DTYPES)}")

    def step(text: str) -> None:
        console.note(f"{time.perf_counter() - began:6.1f} s  {text}")

    if random_weights is not None:
        if llava or pixel:
            raise InputError("can't use --random-weights beside --llava or --pixel; choose one")
        if by_reference:
            raise InputError("--by-reference needs files to refer to; --random-weights has none")
        console.note("random weights: for speed, memory and parity only; this model knows nothing")
        if plant is None:
            made, tensors = random_base(config, random_weights, dtype)
        else:
            device = "cuda" if torch.cuda.is_available() else "cpu"
            checkpoint = planted_base(config, random_weights, dtype, plant, device=device, step=step)
            made, tensors = checkpoint.info, in_memory(named_tensors(checkpoint.model))
    else:
        if plant is not None:
            raise InputError("--plant needs --random-weights: a trained model writes its own answers")
        if not llava or not pixel:
            raise InputError("--llava and --pixel are missing: name released weights, or use --random-weights SEED")
        made, tensors = backbone_base(config, llava, pixel, seed=seed, dtype=dtype, download=download)
    write_checkpoint(made, tensors, out, by_reference=by_reference, step=step)
    say_written(out, made, as_json)


def info(
    model: Annotated[str, typer.Argument(help="A preset (tiny, 0.5b, 7b) or a checkpoint's folder.")],
    pixel_encoder: Annotated[str | None, typer.Option(help="Another pixel encoder than the preset's.")] = None,
    text_tokens: Annotated[int, typer.Option(min=1, help="Tokens of the prompt without the visual ones.")] = 47,
    trie_nodes: Annotated[int, typer.Option(min=0, help="Nodes of the template trie in the same pass.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """Parameters, bytes and FLOPs of every part. Example: agvas-train info 7b --trie-nodes 199."""
    from agvas_train.checkpoint import read_info
    from agvas_train.model import PRESETS
    from agvas_train.model.cost import model_cost
    from agvas_train.report import cost_report, print_cost

    made = read_info(Path(model)) if Path(model).is_dir() else None
    if made and pixel_encoder:
        raise InputError("can't use --pixel-encoder with a checkpoint: it has its own")
    if not made and model not in PRESETS:
        raise InputError(f"{model}: expected a checkpoint's folder or one of {', '.join(PRESETS)}")
    config = made.config.model if made else _model_config(model, pixel_encoder)
    report = cost_report(config, model_cost(config, text_tokens=text_tokens, trie_nodes=trie_nodes), made)
    if as_json:
        console.print_json(report)
    else:
        print_cost(report)


def say_written(out: Path, made: CheckpointInfo, as_json: bool) -> None:
    """Tell what a checkpoint folder holds now."""
    from agvas_train.weights.store import weights_sha256

    files = {path.name: path.stat().st_size for path in sorted(out.iterdir())}
    planted = made.provenance.get("plant")
    if as_json:
        digest = weights_sha256(out)
        console.print_json({"out": str(out), "sha256": digest, "files": files, "provenance": made.provenance})
        return
    if note := weights_note(bool(made.provenance.get("random_weights", False)), planted):
        print(note)
    if planted:
        print(f"plain greedy decoding writes it, proved on {planted['proved_on_images']} images")
        if not planted["is_template"]:
            print("it is none of the templates: the single pass will leave its trie there")
    print(f"wrote {out} ({sum(files.values()) / 1e6:.1f} MB)")


def _model_config(preset: str, pixel_encoder: str | None):  # noqa: ANN202 (its type would import torch)
    from agvas_train.model import PRESETS
    from agvas_train.model.pixel_encoders import with_pixel_encoder

    if preset not in PRESETS:
        raise InputError(f"preset {preset}: expected one of {', '.join(PRESETS)}")
    config = PRESETS[preset]()
    return with_pixel_encoder(config, pixel_encoder) if pixel_encoder else config
