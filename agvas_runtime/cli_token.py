"""`agvas-runtime token`: a new token for somebody who is to call the server."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Annotated

import typer

from agvas_runtime import console, strict_yaml
from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.server import access_file

BITS = 256


def token(
    name: Annotated[str, typer.Argument(help="Who is to have it; goes into logs.")],
    rights: Annotated[str, typer.Option(help="inspect, admin, or both with a comma between.")] = "inspect",
    access: Annotated[Path | None, typer.Option(help="Access file to write its entry to; made if not there.")] = None,
) -> None:
    r"""Make a random token and print it, once: only its hash is kept.

    Without --access the entry for the access file goes to stderr. A running server takes a changed access file within a
    second.

    \b
    Examples:
      agvas-runtime token camera-1 --access access.yaml > camera-1.token
      agvas-runtime token operator --rights inspect,admin --access access.yaml
    """
    wanted = [right.strip() for right in rights.split(",") if right.strip()]
    _check(name, wanted)
    made = secrets.token_urlsafe(BITS // 8)
    shown = name if strict_yaml.load(name.encode(), "a name") == name else f'"{name}"'  # it can look like a number
    lines = (f"name: {shown}", f"rights: [{', '.join(wanted)}]", f'token_sha256: "{_sha256(made)}"')
    entry = "- " + "\n  ".join(lines) + "\n"
    if access is None:
        console.note(f"for the access file:\n{entry}".rstrip())
        print(made)
    else:
        _append(access, entry, made)
        console.note(f"{name} is in {access}")


def _check(name: str, rights: list[str]) -> None:
    """Raise InputError for what the access file would refuse, by the command line's names."""
    if not re.fullmatch(access_file.NAME_PATTERN, name):
        raise InputError(f"NAME: found {name!a}, expected {access_file.EXPECTED['name']}")
    if not rights or set(rights) - {"inspect", "admin"}:
        raise InputError(f"--rights: found {','.join(rights)!a}, expected inspect, admin or inspect,admin")


def _append(path: Path, entry: str, token: str) -> None:
    """Print the token and add its entry in one step: a server never reads half of it. A new file is its owner's only.

    The file beside it, which is there for as long as this takes, keeps other commands from doing the same: what they
    read would lack this entry.

    Raises:
        InputError: the file would not be one any more, or another command is writing it.
        EngineError: it cannot be written.
    """
    path = path.resolve()
    part = path.with_name(f".{path.name}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise InputError(
            f"{part}: found it, expected none: another command is writing, or was stopped doing so"
        ) from None
    except OSError as error:
        raise EngineError(f"{path}: cannot write: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            _write_with(path, entry, file)
        print(token, flush=True)  # first: nobody is let in whose token was lost
        os.replace(part, path)
    except BaseException:  # not where it was done: by then the name may be another command's
        part.unlink(missing_ok=True)
        raise


def _write_with(path: Path, entry: str, file: FileIO) -> None:
    """Write what the access file says, if there is one, and the new entry behind it."""
    before = b""
    if there := path.exists():
        access_file.read(path)
        before = path.read_bytes()
    after = before + (b"" if before.endswith(b"\n") or not before else b"\n") + entry.encode()
    access_file.parse(after, f"{path}, with the new entry at its end")
    try:
        while after:
            after = after[file.write(after) or 0 :]
        if there:
            _keep_rights(path.stat(), file.fileno())
        os.fsync(file.fileno())
    except OSError as error:
        raise EngineError(f"{path}: cannot write: {error.strerror}") from None


def _keep_rights(found: os.stat_result, descriptor: int) -> None:
    """Where root adds an entry, the server's user must still be able to read the file; all others never may.

    Who may not give the file to its owner and group writes one of his own: no group has rights to it.
    """
    with suppress(PermissionError):
        os.fchown(descriptor, found.st_uid, found.st_gid)
        os.fchmod(descriptor, found.st_mode & 0o770)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
