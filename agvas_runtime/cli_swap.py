"""`agvas-runtime swap`: another bundle for a running server, compared with the old one before it serves."""

from __future__ import annotations

from typing import Annotated

import typer

from agvas_runtime import console
from agvas_runtime.connection_options import (
    DEFAULT_SERVER,
    CaOption,
    CertOption,
    KeyOption,
    ServerOption,
    TokenOption,
)
from agvas_runtime.errors import EngineError


def swap(
    bundle: Annotated[str, typer.Argument(help="Folder of the new bundle, as it lies below the server's bundle root.")],
    server: ServerOption = DEFAULT_SERVER,
    shadow: Annotated[
        int,
        typer.Option(min=0, max=100_000, help="Frames of the line that both bundles answer first; 0 compares nothing."),
    ] = 200,
    timeout: Annotated[float, typer.Option(help="Seconds that the line has to bring these frames.")] = 600.0,
    max_disagreement: Annotated[
        float, typer.Option(min=0, max=1, help="Largest share of frames with another verdict.")
    ] = 0.01,
    min_iou: Annotated[
        float, typer.Option(min=0, max=1, help="Smallest mean overlap of the masks, intersection over union.")
    ] = 0.9,
    max_slowdown: Annotated[float, typer.Option(help="Largest ratio of the median times, new to old.")] = 1.5,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Compare, and leave everything as it was.")] = False,
    token_file: TokenOption = None,
    ca: CaOption = None,
    cert: CertOption = None,
    key: KeyOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> int:
    r"""Swap the bundle of a running server, without stopping the line.

    A second engine loads the new bundle and answers frames of the line beside the old one. It takes over only if it
    agrees. Ctrl-C before that leaves everything as it was. Needs the right admin. Exits with 0 if the server switched
    (with --dry-run: would have switched), 1 if it refused, 2 for bad input.

    \b
    Examples:
      agvas-runtime swap bottles-2
      agvas-runtime swap bottles-2 --shadow 1000 --dry-run --json
      agvas-runtime swap bottles-2 --server line4:50051 --ca ca.pem --token-file admin.token
    """
    from agvas_runtime.admin_client import OUTCOMES, document, print_outcome, swapped

    last = swapped(
        server,
        token_file=token_file,
        ca=ca,
        cert=cert,
        key=key,
        bundle=bundle,
        shadow_frames=shadow,
        shadow_timeout_s=timeout,
        max_disagreement=max_disagreement,
        min_iou=min_iou,
        max_slowdown=max_slowdown,
        dry_run=dry_run,
    )
    if as_json:
        console.print_json(document(last))
    else:
        print_outcome(last)
    if OUTCOMES[last.phase] == "refused":
        raise EngineError(f"{bundle} is refused: {last.reason}")
    return 0
