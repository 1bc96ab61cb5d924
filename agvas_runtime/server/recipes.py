"""The server's recipes: a folder of NAME.yaml that is watched, and how a recipe and a request become one.

What a file may say is in `recipe_file.py`. Readers take a whole recipe at once and keep it, so a reload touches no
frame that is under way.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from agvas_runtime.console import one_line
from agvas_runtime.errors import InputError, NotNow
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.proto.agvas.v1.admin_pb2 import RecipeState
from agvas_runtime.server.recipe_file import MAX_BYTES, parse
from agvas_runtime.server.recipe_file import NamedRecipe as NamedRecipe

NAMES_SHOWN = 8
"""Of the recipes there are, in an error."""
SAME_TICK_S = 2.0
"""A file younger than this may change once more without a new time, by the coarsest clock of a file system."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")

Mark = tuple[float, ...]
"""A file's times, size and inode: where they are the same, so is the content. Empty: read it again in any case."""


@dataclass
class _File:
    """What became of a file as it was when it was last read."""

    name: str
    mark: Mark = ()
    error: str = ""


class RecipeBook:
    """The recipes of a folder, or none at all. Safe to use from several threads.

    `on_change` is called with the recipes that are new or changed, once they are in use.

    Raises InputError for a folder that cannot be read, and for recipes that are broken: later on a broken one keeps
    what it was.
    """

    def __init__(self, folder: Path | None, log: logging.Logger = logging.getLogger("agvas.recipes")) -> None:
        self.on_change: Callable[[list[NamedRecipe]], None] = lambda changed: None
        self._folder, self._log = folder, log
        self._recipes: dict[str, NamedRecipe] = {}  # replaced whole, never changed
        self._files: dict[str, _File] = {}
        self._looked: dict[str, Mark] = {}
        self._unreadable = ""
        self._started = False
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        if folder is None:
            return
        try:
            self._looked = _look(folder)
        except OSError as error:
            raise InputError(f"{folder}: {error.strerror}, expected a folder of recipes") from None
        self._take(self._looked)
        errors = {file: state.error for file, state in sorted(self._files.items()) if state.error}
        if errors:
            raise InputError("; ".join(f"{folder / one_line(file)}: {error}" for file, error in errors.items()))
        self._started = True

    def get(self, name: str) -> NamedRecipe:
        """The recipe of that name; raises InputError naming those there are."""
        recipes = self._recipes
        if name in recipes:
            return recipes[name]
        shown = sorted(recipes)[:NAMES_SHOWN]
        more = f" (and {len(recipes) - len(shown)} more)" if len(recipes) > len(shown) else ""
        expected = ", ".join(shown) + more if shown else "none, for the server has no recipes"
        raise InputError(f"recipe_name: found {name[:64]!a}, expected {expected}")

    def find(self, name: str) -> NamedRecipe | None:
        """The recipe of that name, if there is one."""
        return self._recipes.get(name)

    def all(self) -> list[NamedRecipe]:
        """Every recipe that is in use, by name."""
        return [recipe for _, recipe in sorted(self._recipes.items())]

    def states(self) -> list[RecipeState]:
        """Of every file: the recipe that is in use, and why the file as it is now is not."""
        with self._lock:
            return [
                RecipeState(
                    name=state.name,
                    sha256=self._recipes[state.name].sha256 if state.name in self._recipes else "",
                    error=state.error and f"{one_line(file)}: {state.error}",
                )
                for file, state in sorted(self._files.items())
            ]

    def reload(self) -> list[RecipeState]:
        """Read what has changed now, settled or not. Raises NotNow if the folder cannot be read: all stays then."""
        self._read(settled=False)
        if self._unreadable:
            raise NotNow(self._unreadable)
        return self.states()

    def look(self) -> None:
        """Look at the folder once, and take up the changes that the look before found, too.

        So a file that is being written is left alone, and so is one that an editor has moved away for a moment.
        """
        self._read(settled=True)

    def watch(self, interval_s: float = 1.0) -> None:
        """Look at the folder that often, from a thread, until `close`."""
        if self._folder is None or self._thread is not None:
            return
        self._thread = threading.Thread(target=self._watch, args=(interval_s,), name="recipes", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End watching."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self, interval_s: float) -> None:
        while not self._closed.wait(interval_s):
            try:
                self.look()
            except Exception:
                self._log.exception("recipes: the folder's last change")

    def _read(self, *, settled: bool) -> None:
        if self._folder is None:
            return
        with self._lock:
            try:
                before, self._looked = self._looked, _look(self._folder)
            except OSError as error:
                reason = f"the folder of recipes: {error.strerror}; all recipes stay"
                if reason != self._unreadable:
                    self._log.error("%s", reason)
                self._unreadable = reason
                return
            self._unreadable, looked = "", self._looked
            known = {file: state.mark for file, state in self._files.items()}
            changed = [file for file in sorted({*looked, *known}) if looked.get(file) != known.get(file)]
            if settled:
                changed = [file for file in changed if looked.get(file) == before.get(file)]
            news = self._take({file: looked.get(file) for file in changed})
        if news:
            self.on_change(news)

    def _take(self, changed: Mapping[str, Mark | None]) -> list[NamedRecipe]:
        """Read these files, or forget those that are gone, and put what is good into use. Returns the new recipes."""
        assert self._folder is not None
        recipes, news = dict(self._recipes), []
        for file, mark in changed.items():
            name = file.removesuffix(".yaml")
            if mark is None:
                del self._files[file]
                if recipes.pop(name, None) is not None:
                    self._log.warning("recipe %s: removed", name)
                continue
            known = self._files.get(file)
            state = self._files[file] = _File(one_line(name))
            try:
                recipe = parse(name, _data(self._folder, file))
            except InputError as error:
                state.error = str(error)
                if self._started and (known is None or known.error != state.error):
                    kept = "the one before stays in use" if name in recipes else "there is none before it"
                    self._log.error("recipe %s: %s; %s", one_line(file), error, kept)
                continue
            if time.time() - mark[0] > SAME_TICK_S:
                state.mark = mark
            if name not in recipes or recipes[name].sha256 != recipe.sha256:
                recipes[name] = recipe
                news.append(recipe)
                self._log.info("recipe %s: %s in use", name, recipe.sha256[:12])
            elif known is not None and known.error:
                self._log.info("recipe %s: as before", name)
        self._recipes = recipes
        return news


def merge(
    named: NamedRecipe | None, defaults: pb.SegmentRequest | None, request: pb.SegmentRequest
) -> pb.SegmentRequest:
    """A request without its frame, filled up with the stream's defaults and then with the recipe, field by field.

    Two rules beyond that, for fields that do not stand beside each other. An instruction displaces a class name from
    below it, and a class name an instruction. Who names the mode displaces from below what this mode does not take: a
    normal look, a class name. What contradicts itself in one place stays, and is refused as ever.
    """
    below = [named.message] if named is not None else []
    layers = [*below, *([defaults] if defaults is not None else []), request]
    deciding = next((layer for layer in reversed(layers) if layer.mode), None)
    merged = pb.SegmentRequest()
    for layer in layers:
        if layer.instruction:
            merged.class_name = ""
        if layer.class_name:
            merged.instruction = ""
        if layer is deciding:
            _drop(merged, layer.mode)
        if layer.recipe.HasField("roi"):
            merged.recipe.ClearField("roi")  # a box is one value, not four
        for field, value in layer.ListFields():
            if field.message_type is None:
                setattr(merged, field.name, value)
            elif field.name != "frame":
                getattr(merged, field.name).MergeFrom(value)
    merged.recipe_name = named.name if named is not None else ""
    return merged


def _drop(merged: pb.SegmentRequest, mode: pb.Mode) -> None:
    """Take from a request what the mode has no use for."""
    if mode != pb.MODE_DESCRIBE_PLUS:
        merged.normal_look = ""
    if mode in (pb.MODE_FINE_GRAINED, pb.MODE_CONVERSATION):
        merged.class_name = ""


def _look(folder: Path) -> dict[str, Mark]:
    """Every file that is meant to be a recipe; one that has no status has an empty mark. Raises OSError."""
    looked: dict[str, Mark] = {}
    for file in os.listdir(folder):
        if file.startswith(".") or not file.endswith((".yaml", ".yml")):
            continue
        try:
            status = (folder / file).stat()
            looked[file] = (status.st_mtime, status.st_ctime, status.st_size, status.st_ino)
        except OSError:
            looked[file] = (0.0,)
    return looked


def _data(folder: Path, file: str) -> bytes:
    """A recipe file's content; raises InputError unless it is a regular file in the folder, rightly named."""
    name = file.removesuffix(".yaml")
    if name.endswith((".yaml", ".yml")) or not _NAME.match(name):
        raise InputError("the file's name is none of a recipe, expected NAME.yaml, of letters, digits and . _ -")
    path = folder / file
    try:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise InputError("found a link that leaves the folder, expected a file in it")
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError("found no regular file, expected one")
        with path.open("rb") as opened:
            return opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{(error.strerror or str(error)).lower()}, expected a file that can be read") from None
