"""Where a server's configuration comes from: defaults, then a YAML file, then the environment, then flags.

Every error names the source that has to be changed, and `as_yaml` says of every value where it came from.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from agvas_runtime import strict_yaml
from agvas_runtime.console import one_line
from agvas_runtime.errors import InputError
from agvas_runtime.server.config import ServerConfig
from agvas_runtime.strict_yaml import SHOWN_CHARACTERS, shown

PREFIX = "AGVAS_"
CONFIG = "AGVAS_CONFIG"
"""Variable with the path of the file, where no flag says it."""
TYPING_ERROR = 0.7
"""How alike (difflib's ratio) an unknown variable must be to a known one to be taken for a typing error of it."""
OF_KUBERNETES = ("SERVICE_", "_TCP")
"""Parts of the variables that Kubernetes makes for a Service whose name begins with agvas."""

EXPECTED = {
    "int": "an integer",
    "float": "a number",
    "finite_number": "a finite number",
    "bool": "true or false",
    "string": "a text",
    "string_too_short": "a text",
    "tuple": "a list",
    "path": "a path",
    "literal_error": "{expected}",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "greater_than": "more than {gt}",
}
"""Pydantic's kinds of errors, or what they begin with -> what was expected."""


@dataclass(frozen=True)
class Source:
    """Where a value came from: a file, a variable or a flag."""

    name: str
    """As in "agvas.yaml", "AGVAS_PORT", "--port"."""
    where: str
    """How an error about the value begins: "agvas.yaml: port"."""


@dataclass(frozen=True)
class Loaded:
    """A configuration, and the source of every field that is not the default."""

    config: ServerConfig
    sources: Mapping[str, Source]

    def as_yaml(self) -> str:
        """The configuration in effect as a file that would give it again, each line with its value's source."""
        lines = []
        for name, value in self.config.model_dump(mode="json").items():
            if isinstance(getattr(self.config, name), Path):
                value = os.path.abspath(value)
            source = self.sources[name].name if name in self.sources else "default"
            lines.append(f"{name}: {json.dumps(value, ensure_ascii=False)}  # {one_line(source)}\n")
        return "".join(lines)


def load(
    flags: Mapping[str, Any] | None = None, file: Path | None = None, environ: Mapping[str, str] = os.environ
) -> Loaded:
    """The configuration of a server.

    Args:
        flags: values of the command line by field; None is a flag that was not given.
        file: YAML file; that of AGVAS_CONFIG where None, if there is one.
        environ: AGVAS_<FIELD>; an empty variable counts as none.

    Raises:
        InputError: a value cannot be used, or the file cannot; it begins with where the value came from.
    """
    values: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    named = f"{CONFIG}: {environ[CONFIG]}" if file is None and environ.get(CONFIG) else f"--config: {file}"
    path = file or (Path(environ[CONFIG]) if environ.get(CONFIG) else None)
    if path is not None:
        for name, value in _read_file(path, named).items():
            values[name], sources[name] = value, Source(path.name, f"{path.name}: {name}")
    for name, value in _read_environment(environ).items():
        values[name], sources[name] = value, Source(PREFIX + name.upper(), PREFIX + name.upper())
    for name, value in (flags or {}).items():
        if value is not None:
            flag = f"--{name.replace('_', '-')}"
            values[name], sources[name] = value, Source(flag, flag)
    try:
        return Loaded(ServerConfig.model_validate(values), sources)
    except ValidationError as error:
        raise InputError(_in_words(error, sources)) from None


def _read_file(path: Path, named: str) -> dict[str, Any]:
    """The fields of a file, relative paths made to count from its folder."""
    try:
        with path.open("rb") as opened:
            data = opened.read(strict_yaml.MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{named}: {(error.strerror or str(error)).lower()}") from None
    try:
        content = strict_yaml.load(data, "a configuration")
    except InputError as error:
        raise InputError(f"{path.name}: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"{path.name}: found {shown(content)}, expected settings, such as port: 50051")
    for name in content:
        if name not in ServerConfig.model_fields:
            raise InputError(f"{path.name}: {_unknown(str(name), ServerConfig.model_fields)}")
    folder = Path(os.path.abspath(path.parent))
    return {name: _from(folder, name, value) for name, value in content.items()}


def _from(folder: Path, name: str, value: Any) -> Any:
    if isinstance(value, str) and Path in get_args(ServerConfig.model_fields[name].annotation):
        return folder / value
    return value


def _read_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """The fields that variables say. Raises InputError for a variable that seems to be mistyped."""
    known = {PREFIX + name.upper(): name for name in ServerConfig.model_fields}
    found: dict[str, Any] = {}
    for variable, text in sorted(environ.items()):
        if not variable.startswith(PREFIX) or not text or variable == CONFIG:
            continue
        if variable in known:
            found[known[variable]] = _of_variable(variable, known[variable], text)
        elif not any(part in variable for part in OF_KUBERNETES):
            names = [name.upper() for name in ServerConfig.model_fields]
            if get_close_matches(variable.removeprefix(PREFIX), names, 1, TYPING_ERROR):
                raise InputError(_unknown(variable, known))
    return found


def _of_variable(variable: str, name: str, text: str) -> Any:
    """A variable's value; of a field that holds several it is one of them, or a YAML list in brackets."""
    if ServerConfig.model_fields[name].annotation != tuple[str, ...]:
        return text
    if not text.startswith("["):
        return [text]
    try:
        return strict_yaml.load(text.encode("utf-8", "surrogateescape"), "a list")
    except InputError:
        raise InputError(f"{variable}: found {shown(text)}, expected a list, such as [one, two]") from None


def _unknown(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, list(known), 1)
    hint = f"did you mean {close[0]}?" if close else "`agvas-runtime serve --print-config` shows those there are"
    return f"{one_line(name)[:SHOWN_CHARACTERS]}: no such setting; {hint}"


def _in_words(error: ValidationError, sources: Mapping[str, Source]) -> str:
    """The first fault, as source, what was found and what was expected."""
    first = error.errors(include_url=False)[0]
    kind, context = first["type"], first.get("ctx", {})
    name = str(context.get("field") or first["loc"][0])
    where = sources[name].where if name in sources else name
    expected = EXPECTED.get(kind) or next(
        (text for start, text in EXPECTED.items() if kind.startswith(f"{start}_")), None
    )
    if expected is None:
        return f"{where}: {first['msg'][:1].lower() + first['msg'][1:]}"
    return f"{where}: found {shown(first['input'])}, expected {expected.format(**context)}"
