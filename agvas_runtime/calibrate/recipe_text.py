"""Two numbers into a recipe file: every other field, every comment and the file's own look stay as they are."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import yaml

from agvas_runtime import strict_yaml
from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.files import write_whole
from agvas_runtime.modes import Mode
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.server.engine.task import Task
from agvas_runtime.server.recipe_file import parse
from agvas_runtime.server.requests import read_settings

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class RecipeText:
    """A recipe file as it was when it was read; there need be none yet.

    Raises InputError for one that a server would refuse.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.name.removesuffix(".yaml")
        if path.suffix != ".yaml" or not NAME.fullmatch(self.name) or self.name.endswith((".yaml", ".yml")):
            raise InputError(f"{path}: expected a recipe's name: NAME.yaml, of letters, digits and . _ -")
        self.old = _read(path)
        if self.old is not None:
            self._checked(self.old)

    def task(self) -> Task:
        """What the recipe asks about a frame, as the server reads it: the defaults where there is no recipe."""
        if self.old is None:
            return Task()
        return read_settings(self._checked(self.old), Mode.DIRECT, self.name).task

    def with_values(self, values: Mapping[str, float | int]) -> bytes:
        """The file's content with these numbers in it; raises InputError where that cannot be done in its text."""
        old = b"" if self.old is None else self.old
        new = edited(old.decode("utf-8"), values).encode("utf-8")
        self._checked(new)
        before = strict_yaml.load(old, "a recipe") or {}
        if strict_yaml.load(new, "a recipe") != {**before, **values}:
            raise InputError(f"{self.path}: cannot put {' and '.join(values)} into this file; write them by hand")
        return new

    def write(self, new: bytes) -> None:
        """Put the new content in the file's place in one step; raises EngineError if that fails, or it was changed."""
        if _read(self.path) != self.old:
            raise EngineError(f"{self.path}: was changed since it was read; it is left as it is")
        real = self.path.resolve()  # a link stays one
        before = real.stat() if self.old is not None else None
        write_whole(real, new)
        if before is not None:
            with suppress(PermissionError):  # where root calibrates, the server's user must still be able to read it
                os.chown(real, before.st_uid, before.st_gid)
            real.chmod(before.st_mode & 0o7777)

    def _checked(self, data: bytes) -> pb.SegmentRequest:
        try:
            return parse(self.name, data).message
        except InputError as error:
            raise InputError(f"{self.path}: {error}") from None


def edited(text: str, values: Mapping[str, float | int]) -> str:
    """The YAML text of one mapping of plain values with these put in: in their places, or as lines at the end."""
    new_line = "\r\n" if "\r\n" in text else "\n"
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        return text + "".join(f"{name}: {value}{new_line}" for name, value in values.items())
    places = {key.value: value for key, value in root.value}
    last = max((value.end_mark.index for value in places.values()), default=root.end_mark.index)
    missing = [f"{name}: {value}" for name, value in values.items() if name not in places]
    if missing and root.flow_style:
        at = root.start_mark.index + 1
        text = text[:at] + "".join(f"{each}, " for each in missing) + text[at:]
        shift = sum(len(each) + 2 for each in missing)
    elif missing:
        at, shift = text.find("\n", last) + 1, 0
        if text[last - 1] == "\n":  # a block of lines ends where the next line begins
            at = last
        elif not at:
            text, at = text + new_line, len(text) + len(new_line)
        indent = " " * root.start_mark.column
        text = text[:at] + "".join(f"{indent}{each}{new_line}" for each in missing) + text[at:]
    else:
        shift = 0
    for name in sorted(values.keys() & places.keys(), key=lambda name: -places[name].start_mark.index):
        start, end = places[name].start_mark.index + shift, places[name].end_mark.index + shift
        text = text[:start] + str(values[name]) + text[end:]
    return text


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror}") from None
