"""What full size costs on this machine: `make proof-full-size`. Writes benchmarks/full/<date>-<commit>-<preset>.json.

The 7B model needs 24 GiB of memory and 55 GB of disk. Run it on an idle machine; it takes an hour on two cores.
Every step is a process of its own, whose resident memory is watched; anonymous memory is what no file backs.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import save_file

from agvas_runtime.bench.machine import describe_machine, git_commit
from agvas_train.checkpoint import read_info
from agvas_train.lora import ADAPTER, ADAPTER_CONFIG, AdapterConfig, add_adapters
from agvas_train.weights.load import build_empty
from agvas_train.weights.reader import open_weights
from agvas_train.weights.store import read_weights, weights_sha256

REPOSITORY = Path(__file__).resolve().parents[1]
ANSWER = "Sure, it is [NOR][ANO][SEG]."
GIB = 2**30


def watched(*command: object) -> dict[str, Any]:
    """Run a command of this environment; its seconds, and its highest resident and anonymous memory in GiB."""
    began = time.perf_counter()
    program = str(Path(sys.executable).with_name(str(command[0])))
    process = subprocess.Popen([program, *map(str, command[1:])], cwd=REPOSITORY)
    resident = anonymous = 0
    watch = psutil.Process(process.pid)
    while True:
        try:
            process.wait(timeout=0.2)
            break
        except subprocess.TimeoutExpired:
            memory = watch.memory_info()
            resident, anonymous = max(resident, memory.rss), max(anonymous, memory.rss - memory.shared)
    if process.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit code {process.returncode}")
    return {
        "command": " ".join(str(part).replace(f"{REPOSITORY}/", "") for part in command),
        "seconds": time.perf_counter() - began,
        "peak_resident_gib": resident / GIB,
        "peak_anonymous_gib": anonymous / GIB,
    }


def init(preset: str, work: Path) -> dict[str, Any]:
    """A planted base with random weights."""
    out = work / "planted"
    report = watched("agvas-train", "init", "--preset", preset, "--random-weights", 0, "--plant", ANSWER, "--out", out)
    report["command"] = report["command"].replace(str(work), "WORK")
    report["plant"] = read_info(out).provenance["plant"]
    report["bytes"] = sum(path.stat().st_size for path in out.iterdir())
    return report


def fake_run(base: Path, folder: Path) -> None:
    """An adapter folder as a run of this base would leave it, with random adapters: a 7B run needs a GPU."""
    config = AdapterConfig(rank=16, base=str(base), base_sha256=weights_sha256(base))
    model = build_empty(read_info(base).config.model)
    add_adapters(model, config)
    generator = torch.Generator().manual_seed(1)
    folder.mkdir(parents=True)
    trained = {
        name: torch.randn(p.shape, generator=generator) * 0.01
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    save_file(trained, folder / ADAPTER)
    (folder / ADAPTER_CONFIG).write_text(config.model_dump_json())
    shutil.copy(base / "provenance.json", folder)


def merge(base: Path, work: Path) -> dict[str, Any]:
    """Merge adapters into a 7B base; two tensors are computed again and compared."""
    fake_run(base, work / "adapters")
    report = watched("agvas-train", "merge", work / "adapters", "--out", work / "merged")
    report["command"] = report["command"].replace(str(work), "WORK")
    before, after = read_weights(base), read_weights(work / "merged")
    adapters = open_weights(work / "adapters" / ADAPTER)
    errors = {}
    for layer in (0, read_info(base).config.model.language["num_hidden_layers"] - 1):
        stem = f"llava.model.language_model.layers.{layer}.self_attn.q_proj"
        down, up = (adapters[f"{stem}.lora_{side}.default.weight"].read() for side in "AB")
        expected = (before[f"{stem}.weight"].read().float() + 2 * up @ down).bfloat16()
        errors[f"{stem}.weight"] = float((after[f"{stem}.weight"].read().float() - expected.float()).abs().max())
    report["largest_error"] = errors
    unchanged = "pixel_encoder.layers.3.mlp.lin1.weight"
    report["unchanged_tensor_equal"] = torch.equal(before[unchanged].read(), after[unchanged].read())
    return report


RECIPE = """
preset: 0.5b
base: {base}
lora: 16
steps: 20
overfit: true
batch_size: 2
micro_batch: 1
precision: bf16
gradient_checkpointing: true
learning_rate: 0.0003
warmup_steps: 2
save_every: 20
workers: 0
"""


def training(work: Path) -> dict[str, Any]:
    """Twenty steps of the 0.5b preset on the same two samples, images at their full size; the losses must fall."""
    base, run, recipe = work / "random", work / "run", work / "recipe.yaml"
    watched("agvas-train", "init", "--preset", "0.5b", "--random-weights", 0, "--out", base)
    recipe.write_text(RECIPE.format(base=base))
    report = watched("agvas-train", "--config", recipe, "--out", run)
    report["command"] = report["command"].replace(str(work), "WORK")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    report["recipe"] = RECIPE.format(base="WORK/random")
    report["losses"] = [line["loss"] for line in lines]
    if sum(report["losses"][-3:]) >= sum(report["losses"][:3]):
        sys.exit(f"the loss does not fall: {report['losses']}")
    report["seconds_a_step"] = (lines[-1]["seconds"] - lines[0]["seconds"]) / (len(lines) - 1)
    return report


def load(folder: Path) -> dict[str, Any]:
    """Open a checkpoint as the reference engine does and read all of it, in a process of its own."""
    code = "import pathlib; from agvas_train.checkpoint import load_checkpoint; "
    code += f"model = load_checkpoint(pathlib.Path({str(folder)!r})).model; "
    code += "print(sum(float(p.flatten()[::1024].float().sum()) for p in model.parameters()))"  # reads every page
    report = watched("python", "-c", code)
    report["command"] = f"load_checkpoint({folder.name}) and a read of every page"
    return report


def main() -> None:
    """Measure, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, help="folder for the checkpoints; a temporary one by default")
    parser.add_argument("--preset", default="7b", help="7b, or 0.5b to try the script")
    arguments = parser.parse_args()
    commit = (git_commit(REPOSITORY) or "unknown")[:12]
    report: dict[str, Any] = {"machine": describe_machine(), "commit": commit, "preset": arguments.preset}
    with tempfile.TemporaryDirectory(dir=arguments.work) as name:
        work = Path(name)
        report["cost"] = json.loads(
            subprocess.run(
                [Path(sys.executable).with_name("agvas-train"), "info", arguments.preset, "--json"],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        report["init"] = init(arguments.preset, work)
        report["load"] = load(work / "planted")
        report["merge"] = merge(work / "planted", work)
        if arguments.preset == "0.5b":
            report["training"] = training(work)
        out = REPOSITORY / "benchmarks" / "full" / f"{date.today().isoformat()}-{commit}-{arguments.preset}.json"
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {out.relative_to(REPOSITORY)}")


if __name__ == "__main__":
    main()
