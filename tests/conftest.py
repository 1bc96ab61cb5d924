"""What tests of all packages share: the evaluation images, one segmenter, one real server on a loopback port."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# Threads that spin while they wait take the cores from whatever else a test runs; before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pytest

from agvas_runtime.client import Client
from agvas_runtime.demo.server_process import ServerProcess, server_process
from agvas_runtime.segmenter import Segmenter

REPOSITORY = Path(__file__).resolve().parents[1]
DEMO_FRAMES = REPOSITORY / "agvas_runtime" / "demo" / "frames"


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """A command that a test runs in this process, and that hears signals by itself, leaves none deaf behind it."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


def shared_folder() -> Path | None:
    """The folder with `data/real_open` in it, if there is one."""
    places = (os.environ.get("AGVAS_SHARED"), REPOSITORY / "shared", REPOSITORY.parent / "shared")
    return next((Path(place) for place in places if place and (Path(place) / "data" / "real_open").is_dir()), None)


def has_cuda() -> bool:
    """Whether a driver with at least one device is there."""
    return Path("/dev/nvidiactl").exists()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reasons = {
        "shared": None if shared_folder() else "no shared/data/real_open (AGVAS_SHARED)",
        "gpu": None if has_cuda() else "no CUDA device",
    }
    for item in items:
        for marker, reason in reasons.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def real_open() -> Path:
    """The evaluation images."""
    folder = shared_folder()
    if folder is None:
        pytest.skip("no shared/data/real_open (AGVAS_SHARED)")
    return folder / "data" / "real_open"


@pytest.fixture(scope="session")
def segmenter() -> Segmenter:
    """The embedded bundle, in this process, with the server's own settings."""
    return Segmenter.open()


@pytest.fixture(scope="session")
def server() -> Iterator[ServerProcess]:
    """A server of its own process with the embedded bundle."""
    with server_process() as running:
        yield running


@pytest.fixture(scope="session")
def client(server: ServerProcess) -> Iterator[Client]:
    """A client of the server."""
    with Client(f"127.0.0.1:{server.port}") as connected:
        connected.wait_ready()
        yield connected


@pytest.fixture(scope="session")
def photo(segmenter: Segmenter) -> Path:
    """A small photo-like image file with a defect, which the embedded model marks."""
    shown = (path for path in sorted(DEMO_FRAMES.iterdir()) if "normal" not in path.name)
    return next(path for path in shown if 0 < segmenter.segment(path).mask.mean() < 1)


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers that are the same in every run."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def run_module() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `python -m module arguments...` as users do, in a process of its own."""

    def run(module: str, *arguments: object, timeout_s: float = 120, **options: object) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", module, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False, **options)

    return run
