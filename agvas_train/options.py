"""Recipe files: YAML (or JSON) with training options. The shipped ones are known by their names."""

from __future__ import annotations

import difflib
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from agvas_runtime import strict_yaml
from agvas_runtime.errors import InputError
from agvas_runtime.strict_yaml import shown
from agvas_train.config import DataConfig, TrainConfig

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with agvas, by name."""
    return {path.stem: path for path in sorted(Path(str(files("agvas_train") / "recipes")).glob("*.yaml"))}


def recipe_path(name: str) -> Path:
    """A recipe's file: a path, or the name of a shipped one. Raises InputError."""
    shipped = shipped_recipes()
    if Path(name).is_file():
        return Path(name)
    if name in shipped:
        return shipped[name]
    raise InputError(f"{name}: no such file, and no shipped recipe (there are {', '.join(shipped)})")


def read_options(file: Path) -> dict[str, Any]:
    """The options of a recipe or a recorded run; raises InputError naming the file."""
    try:
        content = strict_yaml.load(file.read_bytes(), "training options")
    except (OSError, InputError) as error:
        raise InputError(f"{file}: cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: found a {type(content).__name__}, expected an object of training options")
    engine = content.get("deepspeed")
    if isinstance(content.get("base"), str):
        content["base"] = str(Path(content["base"]).resolve())  # so that a run goes on from wherever it is resumed
    if isinstance(data := content.get("data"), dict) and isinstance(data.get("root"), str):
        content["data"] = {**data, "root": str(Path(data["root"]).resolve())}
    if isinstance(engine, str) and engine != "none" and not Path(engine).is_absolute():
        content["deepspeed"] = str((file.parent / engine).resolve())
    return content


def with_data_root(options: dict[str, Any], root: str | None) -> dict[str, Any]:
    """The options with another root of the data sets; "none" leaves the sets out, None changes nothing."""
    if root is None:
        return options
    if root == "none":
        return {**options, "data": None}
    held = options.get("data")
    return {**options, "data": {**(held if isinstance(held, dict) else {}), "root": str(Path(root).resolve())}}


def make_config(
    options: dict[str, Any], *, given: dict[str, Any] | None = None, source: str | None = None
) -> TrainConfig:
    """Check options; raises InputError naming the first wrong one, and where it comes from.

    Args:
        options: of a recipe or a recorded run.
        given: of the command line; these win.
        source: the file of `options`, where they come from one.
    """
    given = given or {}
    chosen = {name: value for name, value in {**options, **given}.items() if (name, value) != ("deepspeed", "none")}
    try:
        return TrainConfig.model_validate(chosen)
    except ValidationError as error:
        first = error.errors()[0]
        name = next(iter(first["loc"]), None)  # None: several options do not go together
        whose = "training options" if source is None or name in given else source
        beside = " and the command line" if source and given and name is None else ""
        raise InputError(f"{whose}{beside}: {_fault(first)}") from None


def _fault(wrong: ErrorDetails) -> str:
    """What is wrong with an option, what was found and what is expected."""
    text, place = wrong["msg"].removeprefix("Value error, "), [str(part) for part in wrong["loc"] if part != "[key]"]
    if not place:
        return text
    text = f"{'.'.join(place)}: {text}"
    if wrong["type"] != "extra_forbidden":
        return f"{text}, found {shown(wrong['input'])}"
    known = (DataConfig if len(place) > 1 else TrainConfig).model_fields
    near = difflib.get_close_matches(place[-1], known, 1)
    return f"{text}; " + (f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}")
