"""NVIDIA's Triton Inference Server as a child process, on loopback alone; the binary is that of `nvidia-pytriton`.

Its Python backend starts a process a model, with the libpython and the packages of this one.
"""

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path

import psutil
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

MODELS = Path(__file__).resolve().parent / "triton_models"
READY_S = 120.0
STOP_S = 30.0


@dataclass(frozen=True)
class TritonProcess:
    """A server whose models are all ready."""

    process: subprocess.Popen[bytes]
    port: int
    version: str


@contextmanager
def triton_process(threads: int) -> Iterator[TritonProcess]:
    """Start Triton with the models of tools/triton_models; it is stopped when the block ends, however it ends."""
    with tempfile.TemporaryDirectory() as name:
        folder, log = Path(name), Path(name) / "log"
        command, port = _command(folder)
        with log.open("wb") as out:
            process = subprocess.Popen(command, env=_environment(threads), stdout=out, stderr=out)
            try:
                yield TritonProcess(process, port, _ready(process, port, log))
            finally:
                _stop(process)


def reachable_addresses(pid: int) -> list[str]:
    """Where the process or one of its children listens and other machines could reach it."""
    listening = [
        each.laddr
        for process in family(pid)
        for each in process.net_connections("inet")
        if each.status == psutil.CONN_LISTEN
    ]
    return [f"{address.ip}:{address.port}" for address in listening if not _is_loopback(address.ip)]


def family(pid: int) -> list[psutil.Process]:
    """The process and all it started."""
    first = psutil.Process(pid)
    return [first, *first.children(recursive=True)]


def _is_loopback(address: str) -> bool:
    """Also of IPv4 addresses on IPv6 sockets, which is how gRPC's core opens them."""
    return ip_address(address.removeprefix("::ffff:")).is_loopback


def _command(folder: Path) -> tuple[list[str], int]:
    """The command, for a folder to put the backend and the models into, and the port it will listen at.

    Triton looks for the stub of this Python beside the backend, where the package does not put it.
    """
    found = find_spec("pytriton")
    if found is None or not found.submodule_search_locations:
        sys.exit("nvidia-pytriton is not installed here: make .venv-triton/installed")
    binaries = Path(found.submodule_search_locations[0]) / "tritonserver"
    shutil.copytree(MODELS, folder / "models", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(binaries / "backends", folder / "backends")
    stub = binaries / "python_backend_stubs" / f"{sys.version_info[0]}.{sys.version_info[1]}"
    shutil.copy(stub / "triton_python_backend_stub", folder / "backends" / "python")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {
        "model-repository": folder / "models",
        "backend-directory": folder / "backends",
        "grpc-address": "127.0.0.1",
        "grpc-port": port,
        "allow-http": "false",
        "allow-metrics": "false",
        "exit-timeout-secs": 5,
    }
    return [str(binaries / "bin" / "tritonserver"), *(f"--{name}={value}" for name, value in options.items())], port


def _environment(threads: int) -> dict[str, str]:
    """The backend's Python is the first in PATH, its PYTHONPATH is ignored; its libpython is this one's."""
    libraries = (Path(sysconfig.get_path("purelib")) / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR"))
    return {
        **os.environ,
        "PATH": os.pathsep.join((sysconfig.get_path("scripts"), os.environ["PATH"])),
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
        "AGVAS_THREADS": str(threads),
    }


def _ready(process: subprocess.Popen[bytes], port: int, log: Path) -> str:
    """Wait until every model is ready; Triton's version. Ends the program with the log's end where that fails."""
    deadline = time.monotonic() + READY_S
    with InferenceServerClient(f"127.0.0.1:{port}") as client:
        while process.poll() is None and time.monotonic() < deadline:
            with suppress(InferenceServerException):
                if client.is_server_ready():
                    return str(client.get_server_metadata().version)
            time.sleep(0.1)
    sys.exit(f"Triton did not start:\n{log.read_text('utf-8', 'replace')[-4000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        for each in family(process.pid):
            each.kill()
        process.wait()
