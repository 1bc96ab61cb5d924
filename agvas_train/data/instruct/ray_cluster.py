"""Joining a Ray cluster, or starting one on this machine alone. What is done in it is in ray_workers.py."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from agvas_runtime import console
from agvas_runtime.errors import InputError

LOCAL = "local"
REACH_S = 10.0
"""In which the cluster must answer."""


@contextmanager
def joined(address: str, cpus: int) -> Iterator[Any]:
    """Ray itself, as long as this process belongs to a cluster.

    Args:
        address: "local", or what ray.init takes: "auto", "HOST:PORT", "ray://HOST:PORT".
        cpus: how many workers a cluster of this machine alone has room for.

    Raises:
        InputError: there is no such cluster, or it does not let this process in.
        ModuleNotFoundError: Ray is not installed.
    """
    with _environment(address):
        ray = import_module("ray")
        try:
            _connect(ray, address, cpus)
            yield ray
        finally:
            ray.shutdown()


@contextmanager
def _environment(address: str) -> Iterator[None]:
    """Ray's variables as they must be; at the end as they were."""
    before = {name: value for name, value in os.environ.items() if name.startswith("RAY_")}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else it reports to its maker
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # else a thread that calls it after the end starts another cluster
    if address == LOCAL:  # Ray listens on all interfaces: nobody else has the token
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            del os.environ[name]
        os.environ |= before


def _connect(ray: Any, address: str, cpus: int) -> None:
    reach(address)
    own = {"num_cpus": cpus, "include_dashboard": False} if address == LOCAL else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **own)
    except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise InputError(f"--ray: cannot join {address!r} ({console.one_line(str(error))[:300]})") from None


def reach(address: str) -> None:
    """Raise InputError where nobody listens at HOST:PORT: Ray itself would try for minutes, then end the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address in (LOCAL, "auto"):
        return
    try:
        socket.create_connection((host.removeprefix("[").removesuffix("]"), int(port)), REACH_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise InputError(f"--ray: found nobody at {address!r} ({error}), expected a cluster's HOST:PORT") from None
