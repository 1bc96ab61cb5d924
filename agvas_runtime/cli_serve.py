"""`agvas-runtime serve`: an option for every field of the server's configuration, made from the fields themselves."""

from __future__ import annotations

import inspect
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args, get_origin

import typer

from agvas_runtime import console
from agvas_runtime.server.config import ServerConfig
from agvas_runtime.server.config_sources import load
from agvas_runtime.server.notify import notify

if TYPE_CHECKING:
    from agvas_runtime.server.serve import InspectionServer

Command = TypeVar("Command", bound=Callable[..., Any])

LOG = logging.getLogger("agvas.server")
METAVARS = {int: "INTEGER", float: "NUMBER", Path: "PATH", str: "TEXT"}
SEVERAL = tuple[str, ...]


def with_settings(command: Command) -> Command:
    """Give a command an option for every field of ServerConfig; it gets them as keywords, None where not given.

    They arrive as they were typed, for the configuration reads values of all sources alike, with the same errors.
    """
    own = inspect.signature(command, eval_str=True)
    given = [one for one in own.parameters.values() if one.kind is not one.VAR_KEYWORD]
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(name))
        for name in ServerConfig.model_fields
    ]
    made = inspect.Signature(
        [one.replace(kind=one.KEYWORD_ONLY) for one in (*given, *options)], return_annotation=own.return_annotation
    )
    command.__signature__ = made  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in made.parameters.values()} | {"return": None}
    return command


def _option(name: str) -> Any:
    """The annotation of a field's option."""
    field, flag = ServerConfig.model_fields[name], f"--{name.replace('_', '-')}"
    text = " ".join((field.description or "").split())
    if field.annotation is bool:
        return Annotated[bool | None, typer.Option(f"{flag}/--no-{flag[2:]}", help=text)]
    if field.annotation == SEVERAL:
        return Annotated[list[str] | None, typer.Option(flag, metavar="TEXT", help=text)]
    return Annotated[str | None, typer.Option(flag, metavar=_metavar(field.annotation), help=text)]


def _metavar(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return f"[{'|'.join(get_args(annotation))}]"
    kinds = [annotation, *get_args(annotation)]
    return next(METAVARS[kind] for kind in kinds if kind in METAVARS)


@with_settings
def serve(
    config: Annotated[
        Path | None, typer.Option(help="YAML file of these settings; that of AGVAS_CONFIG where there is one.")
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the configuration in effect, with its sources, and exit.")
    ] = False,
    json_line: Annotated[bool, typer.Option("--json", help="Report readiness as one JSON line on stdout.")] = False,
    **settings: Any,
) -> None:
    r"""Serve a bundle over gRPC until SIGINT or SIGTERM.

    Every setting can also stand in a YAML file, as max_streams for --max-streams, or in the environment, as
    AGVAS_MAX_STREAMS. Flags have precedence over the environment, and that over the file.

    \b
    Examples:
      agvas-runtime serve
      agvas-runtime serve --bundle bundles/tiny --port 0 --json
      agvas-runtime serve --warm "Please segment the scratches in this image."
      agvas-runtime serve --config agvas.yaml --log-format json --metrics-port 9090
      agvas-runtime serve --host 0.0.0.0 --tls-cert line.pem --tls-key line.key --access access.yaml
      agvas-runtime serve --config agvas.yaml --print-config
    """
    loaded = load({name: value for name, value in settings.items() if value != []}, config)
    if print_config:
        print(loaded.as_yaml(), end="")
        return
    from agvas_runtime.server.logs import set_up
    from agvas_runtime.server.serve import serve as run

    def ready(server: InspectionServer) -> None:
        if json_line:
            _print(json.dumps(ready_event(server)))
        elif loaded.config.log_format == "text":
            console.note(f"ready: {server.model.name} on {address(server.host, server.port)}")
        else:
            line = LOG.makeRecord(LOG.name, logging.WARNING, __file__, 0, "ready", (), None, extra=ready_event(server))
            LOG.handle(line)  # whatever the level: it answers whoever started the server
        notify("READY=1")

    writer = set_up(loaded.config.log_level, loaded.config.log_format)
    try:
        run(loaded.config, ready)
    finally:
        writer.close()


def _print(line: str) -> None:
    """Print the line of readiness. A server that works goes on where the disk behind stdout is full."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is tried again at the end
        LOG.error("stdout: the line of readiness cannot be written: %s", (error.strerror or str(error)).lower())


def ready_event(server: InspectionServer) -> dict[str, Any]:
    """What the line of JSON says: addresses, processes, and which model answers."""
    return {
        "event": "ready",
        "host": server.host,
        "port": server.port,
        "metrics_port": server.metrics_port,
        "pid": os.getpid(),
        "model": server.model.name,
        "bundle_sha256": server.model.bundle_sha256,
        "engines": [{"device": engine.device, "pid": engine.pid} for engine in server.engines()],
    }


def address(host: str, port: int) -> str:
    """As clients are told it: IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
