"""Training processes that start at once: each is forked from one that has imported everything already.

What runs is `agvas-train`'s own entry point, with a process id, a folder and outputs of its own; it can be killed like
any other. Only the seconds that Python needs to import PyTorch are left out.
"""

import os
import socket
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from subprocess import CompletedProcess

TIMEOUT_S = 300
CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["agvas_train.runs", *(["deepspeed"] if find_spec("deepspeed") else [])])


def begin(folder: Path, *arguments: str, said: Path, environment: Mapping[str, str] | None = None) -> ForkServerProcess:
    """Start `agvas-train` in a folder, on one thread; what it prints goes to the files `said`.out and .err."""
    process = CONTEXT.Process(target=_main, args=(str(folder), arguments, str(said), dict(environment or {})))
    process.start()
    return process


def _main(folder: str, arguments: tuple[str, ...], said: str, environment: dict[str, str]) -> None:
    import torch

    from agvas_train.cli import main

    os.chdir(folder)
    os.environ.update(environment)
    for number, end in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{said}.{end}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    torch.set_num_threads(1)
    sys.argv = ["agvas-train", *arguments]
    main()


def train(folder: Path, *arguments: str, said: Path, processes: int | None = None) -> CompletedProcess[str]:
    """Run `agvas-train` to its end: by itself, or as so many processes in the environment that torchrun gives them."""
    environments = list(_ranks(processes)) if processes else [{}]
    places = [said.with_name(f"{said.name}-{rank}") for rank in range(len(environments))]
    ranks = [
        begin(folder, *arguments, said=at, environment=each) for at, each in zip(places, environments, strict=True)
    ]
    left = {rank.sentinel: rank for rank in ranks}
    try:
        while left:
            done = wait(list(left), TIMEOUT_S)
            if not done or any(left.pop(sentinel).exitcode for sentinel in done):
                break  # the others would wait for the one that failed
    finally:
        for rank in ranks:
            rank.kill()
            rank.join()
    out, err = ("".join(Path(f"{place}.{end}").read_text() for place in places) for end in ("out", "err"))
    code = max(abs(rank.exitcode or 0) for rank in ranks)
    return CompletedProcess(list(arguments), code, out, err)


def _ranks(processes: int) -> Iterator[dict[str, str]]:
    """What torchrun tells each of its processes, as far as PyTorch, accelerate and DeepSpeed read it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {f"{name}WORLD_SIZE": str(processes) for name in ("", "LOCAL_")}
    shared["TORCH_EXTENSIONS_DIR"] = os.devnull  # whoever compiles fails, and does not wait for a killed build's lock
    for rank in range(processes):
        yield {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
