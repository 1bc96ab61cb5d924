"""The access file: a list of principals, read once and checked whole. `access.py` says what follows from it.

    - name: camera-1
      rights: [inspect]
      token_sha256: "7c03d7d6798e89e727ed3e81df1d7d7eaf0e06a130e2777f72984650f7cec253"
    - name: operator
      rights: [inspect, admin]
      certificate: operator.line4.example   # common name or DNS name of a client certificate

Certificates are asked for where the server has a client_ca; without it nobody has one. Who has both a token and a
certificate needs both. Tokens are 256 random bits, so their hashes tell nothing; whoever can write the file gives out
rights.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from agvas_runtime import strict_yaml
from agvas_runtime.errors import InputError

Right = Literal["inspect", "admin"]
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class Entry(BaseModel):
    """One principal of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    rights: Annotated[list[Right], Field(min_length=1)]
    token_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    certificate: Annotated[str, Field(min_length=1, max_length=253)] | None = None

    @model_validator(mode="after")
    def _can_be_told(self) -> Entry:
        if self.token_sha256 is None and self.certificate is None:
            raise ValueError("found neither token_sha256 nor certificate, expected at least one")
        return self


_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_ENTRIES = TypeAdapter(list[Entry])
EXPECTED = {
    "name": "1 to 64 of A-Z a-z 0-9 . _ -, the first a letter or digit",
    "rights": "a list of inspect, admin or both",
    "token_sha256": "the SHA-256 of the token: 64 of 0-9 a-f, in quotes",
    "certificate": "common name or DNS name of a client certificate",
}


def read(path: Path) -> list[Entry]:
    """Read an access file; raises InputError naming file, entry and field, never showing a token."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            data = file.read(strict_yaml.MAX_BYTES + 1)
        folders = {folder: folder.stat().st_mode for folder in (path.parent, path.resolve().parent)}
    except OSError as error:
        raise InputError(f"{path}: found no access file: {(error.strerror or str(error)).lower()}") from None
    if os.name == "posix":
        _refuse_others(path, status, folders)
    return parse(data, str(path))


def _refuse_others(path: Path, status: os.stat_result, folders: dict[Path, int]) -> None:
    """Refuse a file that others than root and this user can have written, or put into its place."""
    mode, user = status.st_mode, os.geteuid()
    if mode & _OTHERS_WRITE:
        found = f"found mode {stat.S_IMODE(mode):04o}, with which others than its owner may give themselves rights"
        raise InputError(f"{path}: {found}, expected chmod go-w")
    if user and status.st_uid not in (0, user):  # root adds entries to the file of the server's user
        found = f"found a file of user {status.st_uid}, who may give himself rights"
        raise InputError(f"{path}: {found}, expected one of root or of user {user}")
    for folder, mode in folders.items():
        if mode & _OTHERS_WRITE and not mode & stat.S_ISVTX:
            found = f"found it in {folder}, mode {stat.S_IMODE(mode):04o}, where others may put another in its place"
            raise InputError(f"{path}: {found}, expected chmod go-w {folder}")


def parse(data: bytes, source: str) -> list[Entry]:
    """The same from a file's content; `source` stands in front of errors."""
    try:
        content = strict_yaml.load(data, "an access file", secret=True)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    try:
        entries = _ENTRIES.validate_python([] if content is None else content)
    except ValidationError as error:
        raise InputError(f"{source}: {_first_error(error, content)}") from None
    _refuse_twins(entries, source)
    return entries


def _first_error(error: ValidationError, content: Any) -> str:
    """The first thing that is wrong, in one line. Values are shown only where nobody writes a secret by mistake."""
    first = error.errors(include_url=False)[0]
    if not first["loc"]:
        return f"found {type(content).__name__}, expected a list of principals, each with name and rights"
    entry, field = int(first["loc"][0]), str(first["loc"][1]) if len(first["loc"]) > 1 else ""
    name = content[entry].get("name") if isinstance(content[entry], dict) else None
    where = f"entry {entry + 1}" + (f" ({ascii(name)[1:-1][:64]})" if isinstance(name, str) else "")
    if first["type"] == "missing":
        return f"{where}: {field}: found nothing, expected {EXPECTED[field]}"
    if first["type"] == "extra_forbidden":
        return f"{where}: found the unknown field {ascii(field)[:64]}, expected {', '.join(EXPECTED)}"
    if first["type"] == "value_error":
        return f"{where}: {first['msg'].removeprefix('Value error, ')}"
    if field not in EXPECTED:
        return f"{where}: found no fields, expected name and rights"
    given = first["input"]
    hidden = f"{len(given)} characters" if isinstance(given, str) else f"a value of type {type(given).__name__}"
    found = ascii(given)[:64] if field in ("name", "rights") else hidden
    return f"{where}: {field}: found {found}, expected {EXPECTED[field]}"


def _refuse_twins(entries: list[Entry], source: str) -> None:
    """Refuse two principals that could not be told apart."""
    seen: dict[tuple[str, str], int] = {}
    for number, entry in enumerate(entries, 1):
        certificate = entry.certificate if entry.token_sha256 is None else None
        for field, value in (
            ("name", entry.name),
            ("token_sha256", entry.token_sha256),
            ("certificate", certificate),
        ):
            if value is None:
                continue
            first = seen.setdefault((field, value), number)
            if first != number:
                what = f"{field}: found that of entry {first}, expected another one"
                raise InputError(f"{source}: entry {number} ({entry.name}): {what}")
