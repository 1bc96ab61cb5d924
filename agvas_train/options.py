"""Recipe files: YAML (or JSON) with training options. The shipped ones are known by their names."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from agvas_runtime.errors import InputError
from agvas_train.config import TrainConfig


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
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{file}: cannot be read: {' '.join(str(error).split())}") from None
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


def make_config(options: dict[str, Any], *, source: str = "training options") -> TrainConfig:
    """Check options; raises InputError naming the first wrong one."""
    try:
        return TrainConfig.model_validate({k: v for k, v in options.items() if (k, v) != ("deepspeed", "none")})
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{part}: " for part in (source, ".".join(map(str, first["loc"]))) if part)
        raise InputError(where + first["msg"].removeprefix("Value error, ")) from None
