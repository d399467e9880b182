"""The one checker: plain values become a documented dataclass, or one line that says what is wrong.

What comes from TOML, from JSON and from the command line is converted and refused here and nowhere else.
"""

import sys
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, field, fields, is_dataclass
from typing import Any, TypeVar

T = TypeVar("T")


class ConfigError(ValueError):
    """A setting that cannot be used; the message is one line that says where, what was expected and what to do."""


def option(
    default: Any,
    help: str,
    choices: Sequence[str] = (),
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> Any:
    """A documented dataclass field: `--name VALUE` on the command line, `name = value` in TOML."""
    rules = {"choices": tuple(choices), "at_least": at_least, "at_most": at_most, "below": below}
    return field(default=default, metadata={"help": help, **rules})


def argument(help: str, default: Any = MISSING, choices: Sequence[str] = ()) -> Any:
    """A dataclass field that the command line takes by place; required unless it has a default."""
    return field(default=default, metadata={"help": help, "choices": tuple(choices), "positional": True})


def overrides(of: type) -> Any:
    """A `Mapping[str, str]` field that collects the flags that name a field of the dataclass `of`, as text."""
    return field(default_factory=dict, metadata={"help": "", "overrides": of})


def closest(name: str, names: Iterable[str]) -> str | None:
    """The valid name that `name` was most likely meant to be, if there is one."""
    import difflib

    valid: dict[str, str] = {}
    for full in names:  # the key alone counts too: people forget the section, or take the wrong one
        valid.setdefault(full, full)
        valid.setdefault(full.rpartition(".")[2], full)
    last = name.rpartition(".")[2]
    matches = [last] if last in valid else []
    matches += difflib.get_close_matches(name, valid, n=1) + difflib.get_close_matches(last, valid, n=1)
    return valid[matches[0]] if matches else None


def from_mapping(cls: type[T], mapping: Any, where: str) -> T:
    """Build the dataclass `cls` from plain values (TOML, JSON or words of the command line).

    Args:
        cls: a dataclass whose fields are int, float, bool, str, optional ones, tuples of those, or dataclasses.
        mapping: names to values. Text is converted to the field's type; integral floats serve as int.
        where: what an error message begins with, such as the file's name.

    Raises:
        ConfigError: one line, for an unknown or missing key, a wrong type, or a value outside its choices or range.
    """
    return _build(cls, mapping, where, "")


def _build(cls: type[T], mapping: Any, where: str, prefix: str) -> T:
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{_at(where, prefix)}: expected a table, got {quoted(mapping)}")
    hints, known = typing.get_type_hints(cls), {f.name: f for f in fields(typing.cast(Any, cls))}
    values = {}
    for key, value in mapping.items():
        if key not in known:
            valid = closest(str(key), known)
            hint = f"did you mean {_join(prefix, valid)}?" if valid else f"valid keys: {', '.join(known)}"
            raise ConfigError(_at(where, f"unknown key {_join(prefix, key)}; {hint}"))
        values[key] = check(hints[key], value, known[key].metadata, where, _join(prefix, key))
    for name, known_field in known.items():
        if name not in values and known_field.default is MISSING and known_field.default_factory is MISSING:
            raise ConfigError(f"{_at(where, prefix)}: missing key {name} ({known_field.metadata.get('help', '')})")
    try:
        return cls(**values)
    except ConfigError as error:  # a rule between fields
        raise ConfigError(_at(where, str(error))) from None


def check(kind: Any, value: Any, rules: Mapping[str, Any], where: str, name: str) -> Any:
    """Convert one value to the type `kind` and hold it against the field's rules.

    Args:
        kind: the field's type.
        value: what was written.
        rules: the field's metadata.
        where: the file, or empty.
        name: the dotted name of the field, or the flag.

    Raises:
        ConfigError: one line.
    """
    where_name, (kind, optional) = _at(where, name), plain(kind)
    if value is None and optional:
        return None
    if typing.get_origin(kind) is tuple:
        if isinstance(value, str):
            value = [piece.strip() for piece in value.split(",") if piece.strip()]
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where_name}: expected a list, got {quoted(value)}")
        return tuple(check(typing.get_args(kind)[0], v, rules, where, f"{name}[{i}]") for i, v in enumerate(value))
    if is_dataclass(kind):
        read = getattr(kind, "from_text", None)
        if isinstance(value, str) and read:
            value = vars(read(value))
        return _build(typing.cast(type, kind), value, where, name)
    if typing.get_origin(kind) in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where_name}: expected a table, got {quoted(value)}")
        return dict(value)
    result = _scalar(kind, value, where_name)
    if rules.get("choices") and result not in rules["choices"]:
        valid = closest(str(result), rules["choices"])
        hint = f"; did you mean {valid}?" if valid else ""
        raise ConfigError(f"{where_name}: expected {_either(rules['choices'])}, got {quoted(value)}{hint}")
    for rule, good, words in (
        ("at_least", lambda a, b: a >= b, "at least"),
        ("at_most", lambda a, b: a <= b, "at most"),
        ("below", lambda a, b: a < b, "a number below"),
    ):
        bound = rules.get(rule)
        if bound is not None and not good(result, bound):
            raise ConfigError(f"{where_name}: expected {words} {bound}, got {quoted(value)}")
    return result


_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _scalar(kind: Any, value: Any, where_name: str) -> Any:
    """Convert to int, float, bool or str; nothing is guessed: 3 is no text and 1 is no truth value."""
    if kind is str and isinstance(value, str):
        return value
    if kind is bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
    elif kind in (int, float) and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        number = _number(value)
        if kind is float and number is not None and abs(number) <= sys.float_info.max:  # neither infinite nor NaN
            return float(number)
        if kind is int and isinstance(number, int):
            return number
        if kind is int and number is not None and float(number).is_integer() and abs(number) <= 2**53:
            return int(number)
    raise ConfigError(f"{where_name}: expected {_KINDS[kind]}, got {quoted(value)}")


def _number(value: int | float | str) -> int | float | None:
    for read in (int, float) if isinstance(value, str) else ():
        try:
            return read(value)
        except ValueError:
            continue
    return None if isinstance(value, str) else value


def plain(kind: Any) -> tuple[Any, bool]:
    """The type without `| None`, and whether None is allowed."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return next(k for k in typing.get_args(kind) if k is not types.NoneType), True
    return kind, False


def _join(prefix: str, name: Any) -> str:
    return f"{prefix}.{name}" if prefix else str(name)


def _at(where: str, name: str) -> str:
    return ": ".join(part for part in (where, name) if part)


def _either(choices: Sequence[str]) -> str:
    words = [word for word in choices if word]  # the empty one is the default, which nobody needs to name
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def quoted(value: Any) -> str:
    """A value as an error message shows it: short and on one line."""
    if isinstance(value, Mapping):
        return "a table"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def names(cls: type, prefix: str = "") -> dict[str, Any]:
    """The dotted names of all plain fields of `cls` and of the dataclasses inside it, with (type, field)."""
    hints, result = typing.get_type_hints(cls), {}
    for known in fields(cls):
        name, kind = _join(prefix, known.name), hints[known.name]
        result |= names(kind, name) if is_dataclass(kind) else {name: (kind, known)}
    return result
