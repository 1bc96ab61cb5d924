"""The Dockerfile without a container engine: its stages, and its install lines in clean environments.

What cannot be seen here: the base images, the apt lines, the health check as the engine runs it.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from agvas_runtime.server.config import ServerConfig

REPOSITORY = Path(__file__).resolve().parents[1]
FORBIDDEN = {"torch", "transformers", "peft", "accelerate"}

Instruction = tuple[str, str]


def stages() -> dict[str, list[Instruction]]:
    """Stage name to its instructions, (keyword, rest of the line), continuation lines joined."""
    text = re.sub(r"\\\n", " ", (REPOSITORY / "Dockerfile").read_text())
    found: dict[str, list[Instruction]] = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        keyword, rest = line.split(maxsplit=1)
        if keyword == "FROM":
            found[rest.split(" AS ")[1]] = current = []
        current.append((keyword, rest))
    return found


STAGES = stages()


def lines(stage: str, keyword: str) -> list[str]:
    return [rest for found, rest in STAGES[stage] if found == keyword]


def pip_arguments(stage: str) -> list[str]:
    """What the stage gives to `pip install`."""
    (line,) = (line for line in lines(stage, "RUN") if line.startswith("pip install "))
    arguments = shlex.split(line.split(" && ")[0])[2:]
    return [argument for argument in arguments if argument != "--no-cache-dir"]


def copy_sources(stage: str, target: Path) -> None:
    """Do the stage's COPY lines."""
    for line in lines(stage, "COPY"):
        *sources, destination = line.split()
        for source in sources:
            place = target / destination / (source if destination == "./" else "")
            if (REPOSITORY / source).is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(REPOSITORY / source, place, ignore=ignored, dirs_exist_ok=True)
            else:
                shutil.copy(REPOSITORY / source, place)


def clean_environment(tmp_path: Path) -> Path:
    """A new virtual environment's Python."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    return tmp_path / "venv" / "bin" / "python"


def bare() -> dict[str, str]:
    """The environment without what belongs to this Python."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def test_the_stages_are_the_three_of_the_design():
    assert list(STAGES) == ["runtime-cpu", "runtime-gpu", "export"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_runs_as_another_user_than_root_and_has_a_health_check(stage):
    users = lines(stage, "USER")
    assert users
    assert users[-1] not in ("root", "0")
    assert len(lines(stage, "HEALTHCHECK")) == 1
    assert len(lines(stage, "ENTRYPOINT")) == 1
    keywords = [keyword for keyword, _ in STAGES[stage]]
    assert keywords.index("USER") > max(i for i, keyword in enumerate(keywords) if keyword == "RUN")


@pytest.mark.parametrize("stage", ["runtime-cpu", "runtime-gpu"])
def test_a_server_s_own_command_may_be_started_and_is_published_to_this_machine_alone(stage):
    """It is heard from outside the container without TLS and login, because a fresh image has neither."""
    command = json.loads(lines(stage, "CMD")[0])
    assert command == ["serve", "--host", "0.0.0.0", "--insecure"]
    assert ServerConfig(host="0.0.0.0", insecure=True).port == int(lines(stage, "EXPOSE")[0])
    documents = [REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")]
    text = "".join(path.read_text("utf-8") for path in documents).replace("\\\n", " ")
    runs = [shlex.split(line) for line in text.splitlines() if line.startswith("    docker run ")]
    own = [arguments for arguments in runs if arguments[-1] == "agvas"]
    assert own
    for arguments in own:
        published = [value for flag, value in pairwise(arguments) if flag in ("-p", "--publish")]
        assert published
        assert all(value.startswith("127.0.0.1:") for value in published)
    for arguments in (arguments for arguments in runs if arguments not in own):
        assert "--insecure" not in arguments


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_installs_at_the_versions_of_the_constraints_file(stage):
    arguments = pip_arguments(stage)
    assert arguments[arguments.index("-c") + 1] == "constraints.txt"
    assert "constraints.txt" in " ".join(lines(stage, "COPY"))


def test_nothing_is_copied_that_dockerignore_leaves_out():
    kept = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for stage in STAGES:
        for line in lines(stage, "COPY"):
            assert set(line.split()[:-1]) <= kept


@pytest.mark.installs
def test_the_cpu_runtime_s_install_line_gives_a_server_without_torch(tmp_path):
    source = tmp_path / "src"
    source.mkdir()
    copy_sources("runtime-cpu", source)
    python = clean_environment(tmp_path)
    install = [python, "-m", "pip", "install", "-q", *pip_arguments("runtime-cpu")]
    done = subprocess.run(install, cwd=source, env=bare(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(source)

    def run(*command: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tmp_path, env=bare(), capture_output=True, text=True, check=False)

    listed = json.loads(run(python, "-m", "pip", "list", "--format", "json").stdout)
    names = {package["name"].lower() for package in listed}
    assert "agvas" in names
    assert not names & FORBIDDEN
    (entry,) = json.loads(lines("runtime-cpu", "ENTRYPOINT")[0])
    assert run(python.with_name(entry), "serve", "--help").returncode == 0
    shown = run(python.with_name(entry), *json.loads(lines("runtime-cpu", "CMD")[0]), "--print-config")
    assert shown.returncode == 0, shown.stderr
    assert "0.0.0.0" in shown.stdout
    health = json.loads(lines("runtime-cpu", "HEALTHCHECK")[0].split("CMD ")[1])
    absent = run(python, *health[1:], "127.0.0.1:1")
    assert (absent.returncode, absent.stdout) == (1, "UNAVAILABLE\n")
    demo = run(python, "-m", "agvas_runtime.demo", "--count", "2", "--fps", "0", "--out", "out")
    assert demo.returncode == 0, demo.stderr


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["runtime-gpu", "export"])
def test_the_other_stages_install_lines_resolve(stage, tmp_path):
    copy_sources(stage, tmp_path)
    python = clean_environment(tmp_path)
    report = ["--dry-run", "--quiet", "--report", "report.json"]
    install = [python, "-m", "pip", "install", *report, *pip_arguments(stage)]
    done = subprocess.run(install, cwd=tmp_path, env=bare(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = {item["metadata"]["name"].lower() for item in json.loads((tmp_path / "report.json").read_text())["install"]}
    assert "agvas" in found
    if stage == "runtime-gpu":
        assert "onnxruntime-gpu" in found
        assert not found & (FORBIDDEN | {"onnxruntime"})
    else:
        assert {"torch", "onnx", "onnxruntime"} <= found
