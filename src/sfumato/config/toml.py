"""Recipes as TOML files: reading with overrides, and writing back."""

import json
import os
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from sfumato.config.check import ConfigError, check, closest, from_mapping, names
from sfumato.config.recipe import Recipe

T = TypeVar("T")


def override(recipe: T, words: Mapping[str, str]) -> T:
    """A copy of a dataclass with some fields replaced, given as dotted names and text: `{"train.tokens": "2e8"}`."""
    known, sections = names(type(recipe)), {}
    for name, text in words.items():
        if name not in known:
            valid = closest(name, known)
            raise ConfigError(f"--{name}: unknown setting" + (f"; did you mean --{valid}?" if valid else ""))
        kind, found = known[name]
        section, _, key = name.rpartition(".")
        sections.setdefault(section, {})[key] = check(kind, text, found.metadata, "", f"--{name}")
    changed = sections.pop("", {})
    for section, values in sections.items():  # recipes are two levels deep
        changed[section] = replace(getattr(recipe, section), **values)
    return replace(typing.cast(Any, recipe), **changed)  # all at once: sections may need each other


def load_recipe(path: Any, overrides: Mapping[str, str] = types.MappingProxyType({})) -> Recipe:
    """Read a recipe from TOML, then apply the settings of the command line.

    Relative paths of sources and of the tokenizer are looked up in the recipe's folder first and then in the current
    folder; those of the command line only in the current folder. What is found becomes absolute, so that the recipe
    means the same from everywhere.

    Raises:
        ConfigError: one line, with `file:line` where the TOML cannot be read.
        OSError: if there is no such file.
    """
    import tomllib

    path = Path(path)
    try:
        table = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: expected UTF-8 text, got byte {error.object[error.start]:#04x}") from None
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        line = re.search(r" \(at line (\d+), column \d+\)$", message)
        place, message = (f":{line[1]}", message[: line.start()]) if line else ("", message)
        raise ConfigError(f"{path}{place}: not valid TOML: {message[:1].lower()}{message[1:]}") from None
    recipe = located(from_mapping(Recipe, table, str(path)), [path.parent, Path()])
    return located(override(recipe, overrides), [Path()])


def located(recipe: Recipe, folders: Sequence[Any]) -> Recipe:
    """Make relative paths that exist in one of the folders absolute; the others stay for the reader to report."""

    def find(text: str) -> str:
        if not text or text.startswith("hf:") or "://" in text:
            return text
        for folder in folders:
            candidate = os.path.join(folder, os.path.expanduser(text))
            if os.path.exists(candidate):
                return os.path.abspath(candidate)
        return text

    sources = tuple(replace(source, path=find(source.path)) for source in recipe.data.sources)
    return replace(
        recipe,
        data=replace(recipe.data, sources=sources),
        tokenizer=replace(recipe.tokenizer, path=find(recipe.tokenizer.path)),
        score=replace(recipe.score, path=find(recipe.score.path)),
    )


def to_toml(recipe: Any) -> str:
    """Write a dataclass as TOML; reading it back gives an equal one."""
    values = {f.name: getattr(recipe, f.name) for f in fields(recipe)}
    sections = {name: value for name, value in values.items() if is_dataclass(value)}
    blocks = ["".join(f"{n} = {_toml(v)}\n" for n, v in values.items() if n not in sections and v is not None)]
    blocks += [f"[{name}]\n{to_toml(value)}" for name, value in sections.items()]
    return "\n".join(block for block in blocks if block)


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + "".join(f"\n    {_toml(item)}," for item in value) + ("\n]" if value else "]")
    if is_dataclass(value):
        return "{ " + ", ".join(f"{f.name} = {_toml(getattr(value, f.name))}" for f in fields(value)) + " }"
    if isinstance(value, str):  # JSON escapes what TOML does, but for one character
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value).lower() if isinstance(value, bool) else repr(value)
