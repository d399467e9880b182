"""Something to do right behind an import that may come later, or never: nothing is imported for its sake."""

import importlib.util
import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def behind_import(name: str, action: Callable[[], None]) -> None:
    """Do it now where a package is imported already, else as soon as somebody has imported it."""
    if name in sys.modules:
        action()
    else:
        sys.meta_path.insert(0, _Behind(name, action))


class _Behind(MetaPathFinder):
    """Lets the other finders find the package, and hears when it has run."""

    def __init__(self, name: str, action: Callable[[], None]):
        self._name, self._action = name, action

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != self._name or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        sys.meta_path.insert(0, self)  # to look for a package is not to import it
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def run_and_act(module: ModuleType) -> None:
            run(module)  # where it fails, somebody may try again
            sys.meta_path.remove(self)
            self._action()

        spec.loader.exec_module = run_and_act
        return spec
