"""What `agvas-runtime doctor` looks at for one configuration: ports, bundle, recipes, certificates, access.

What belongs to the machine is in `doctor.py`. Nothing here changes or starts anything; ports are opened for a moment.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.server.certificates import last_moments
from agvas_runtime.server.config import ServerConfig

State = Literal["ok", "warning", "problem"]

SOON = timedelta(days=30)
"""Before a certificate ends, when there still is time to make another."""


@dataclass(frozen=True)
class Check:
    """What was looked at, what was found, and what to do about it."""

    name: str
    state: State
    found: str
    advice: str = ""


def ports(config: ServerConfig) -> Iterator[Check]:
    """Whether the addresses can be listened on now."""
    yield _port("port", config.host, config.port)
    if config.metrics_port is None:
        yield Check("metrics port", "ok", "none", "metrics_port gives health and metrics over HTTP")
    else:
        yield _port("metrics port", config.metrics_host, config.metrics_port)


def _port(name: str, host: str, port: int) -> Check:
    from agvas_runtime.server.port import why_not

    where, reason = f"{port} on {host}", why_not(host, port)
    if reason is not None:
        return Check(name, "problem", f"{where}: {reason}", "does a server run already? take another port or host")
    return Check(name, "ok", f"{where} is free")


def bundle(config: ServerConfig) -> Iterator[Check]:
    """Whether the bundle opens: schema, hashes, paths."""
    from agvas_runtime.bundle import Bundle, default_bundle_path
    from agvas_runtime.bundle_info import engines_here

    opened = Bundle.open(config.bundle or default_bundle_path())
    manifest = opened.manifest
    text = f"{manifest.name}, {opened.size_bytes / 1e6:.1f} MB in {len(manifest.files)} files, verified"
    wants_native = config.engine == "tensorrt" or (config.engine == "auto" and manifest.engine_plan is not None)
    if config.engine == "tensorrt" and manifest.engine_plan is None:
        yield Check("bundle", "problem", f"{text}; not made for TensorRT", "export it with --trt, or take engine ort")
    elif wants_native and not engines_here(opened):
        advice = f"agvas-runtime build {opened.folder}, or the first start does it, for minutes"
        yield Check("bundle", "warning", f"{text}; no engines here yet", advice)
    else:
        yield Check("bundle", "ok", text)
    if config.bundle_root is not None:
        yield _folder("bundle root", config.bundle_root)


def _folder(name: str, folder: Path) -> Check:
    try:
        count = sum(path.is_dir() for path in folder.iterdir())
    except OSError as error:
        return Check(name, "problem", f"{folder}: {(error.strerror or str(error)).lower()}", "name a folder of bundles")
    return Check(name, "ok", f"{folder}, {count} folders")


def recipes(config: ServerConfig) -> Iterator[Check]:
    """Whether every recipe can be used."""
    if config.recipes is None:
        yield Check("recipes", "ok", "none")
        return
    from agvas_runtime.server.recipes import RecipeBook

    book = RecipeBook(config.recipes)
    names = ", ".join(recipe.name for recipe in book.all())
    book.close()
    yield Check("recipes", "ok", f"{config.recipes}: {names or 'none in it'}")


def tls(config: ServerConfig) -> Iterator[Check]:
    """Whether certificate and key can be read, belong together and last."""
    from agvas_runtime.server.tls import is_loopback, read_ca, read_pair

    if config.tls_cert is None or config.tls_key is None:
        advice = "give tls_cert and tls_key: whoever is on the way can read and change frames and answers"
        yield Check("tls", "ok" if is_loopback(config.host) else "warning", "none", advice)
        return
    read_pair(config.tls_cert, config.tls_key)
    yield _lasting("tls", config.tls_cert)
    yield _unread_by_others("tls key", config.tls_key)
    if config.client_ca is not None:
        read_ca(config.client_ca)
        yield _lasting("client ca", config.client_ca)


def _lasting(name: str, path: Path) -> Check:
    """By the certificate of the file that ends first."""
    ends = last_moments(path)
    end = min(ends)
    left = end - datetime.now(timezone.utc)
    text = f"{path}, until {end:%Y-%m-%d}"
    if len(ends) > 1:
        text = f"{path}, {len(ends)} certificates, the first of them until {end:%Y-%m-%d}"
    if left <= timedelta():
        return Check(name, "problem", f"{text}: it has ended", "make a new one; a running server takes it up")
    if left < SOON:
        return Check(name, "warning", f"{text}: {left.days} days left", "make a new one; a running server takes it up")
    return Check(name, "ok", text)


def access(config: ServerConfig) -> Iterator[Check]:
    """Whether the file of who may do what can be used."""
    from agvas_runtime.server.access import UNASKED, Principals
    from agvas_runtime.server.tls import is_loopback

    if config.access is None:
        closed = is_loopback(config.host) or config.client_ca is not None
        found = "none: this machine may do everything, whoever else is let in may inspect"
        yield Check("access", "ok" if closed else "warning", found, "name a file with access, see docs/security.md")
        return
    known = Principals.read(config.access)
    if known.certified and config.client_ca is None:
        found = f"{config.access}: {', '.join(known.certified)}: {UNASKED}"
        yield Check("access", "warning", found, "give client_ca, or a token to these entries in place of certificate")
        return
    yield Check("access", "ok", f"{config.access}: {', '.join(known.names) or 'nobody in it'}")


def _unread_by_others(name: str, path: Path) -> Check:
    if path.stat().st_mode & stat.S_IROTH:
        return Check(name, "warning", f"{path}: everybody on this machine can read it", f"chmod o-r {path}")
    return Check(name, "ok", str(path))


def tracing(config: ServerConfig) -> Iterator[Check]:
    """Whether spans can be sent, where they are wanted."""
    if not config.tracing:
        return
    try:
        found = find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        raise InputError("tracing is on, and OpenTelemetry's exporter is not installed: pip install 'agvas[tracing]'")
    yield Check("tracing", "ok", os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or "to http://localhost:4318")


def local(config: ServerConfig) -> Iterator[Check]:
    """Whether the socket of the machine's own cameras can be listened at, where one is wanted."""
    from agvas_runtime.server.local import look_at

    if config.local is None:
        return
    try:
        look_at(config.local)
    except EngineError as error:
        yield Check("local", "problem", str(error), "name a path in a folder that the server may write to")
        return
    yield Check("local", "ok", f"{config.local} is free")


ALL = (ports, local, bundle, recipes, tls, access, tracing)
