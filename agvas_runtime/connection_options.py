"""Options of every command that calls a server with TLS or tokens."""

from pathlib import Path
from typing import Annotated

import typer

ServerOption = Annotated[str, typer.Option(metavar="HOST:PORT", help="Where the server listens.")]
TokenOption = Annotated[Path | None, typer.Option(help="File with a token, for a server with an access file.")]
CaOption = Annotated[Path | None, typer.Option(help="PEM file of who signed the server's certificate: TLS.")]
CertOption = Annotated[Path | None, typer.Option(help="PEM file with a certificate of your own.")]
KeyOption = Annotated[Path | None, typer.Option(help="PEM file with its private key.")]
DEFAULT_SERVER = "127.0.0.1:50051"
