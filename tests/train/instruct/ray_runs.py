"""`agvas-data instruct --ray` in a process of its own, and the workers that it has on this machine."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil

LOCAL = ("--ray", "local", "--ray-workers", "2", "--concurrency", "2")


def start(
    root: Path, url: str, *options: str, where: tuple[str, ...] = LOCAL, before: str = "", **environment: str
) -> subprocess.Popen[str]:
    """The command over a set; `before`: what is done in its process first."""
    command = [sys.executable, "-c", f"{before}\nfrom agvas_train.data.cli import main\nmain()"]
    command += ["instruct", str(root), "--out", str(root.parent / "out")]
    command += ["--endpoint", url, "--model", "eyes", "--backoff", "0", *where, *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, env=os.environ | environment, **pipes)


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The workers that have begun; none where the process or one of them goes meanwhile."""
    with suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
        return [child for child in children if "ray::Worker" in (name := child.name()) and "__i" not in name]
    return []
