"""Tasks by their names, with settings: `addition digits=3`."""

from importlib import import_module

from sfumato.config import ConfigError, closest, from_mapping
from sfumato.evaluate.tasks.problem import Task

TASKS = ("sudoku", "countdown", "path", "addition", "sat")


def task_of(text: str, where: str = "task") -> Task:
    """The task that a text describes: its name, then settings as key=value.

    Raises:
        ConfigError: an unknown task or setting, or a bad value; `where` is what the message begins with.
    """
    name, *settings = text.split() or [""]
    if name not in TASKS:
        hint = closest(name, TASKS)
        raise ConfigError(f"{where}: got {name!r}, expected {f'{hint}?' if hint else ', '.join(TASKS)}")
    values = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"{where}: expected key=value behind {name}, got {setting!r}")
        values[key] = value
    return from_mapping(getattr(import_module(f"sfumato.evaluate.tasks.{name}"), name.capitalize()), values, where)
