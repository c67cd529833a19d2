"""Public names that are imported when they are first used, so that importing a package costs nothing."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import Any


def lazy(
    package: str, homes: Mapping[str, str], through: Callable[[Any], Any] = lambda value: value
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package whose names live in its modules.

    Args:
        package: The package's `__name__`.
        homes: Public name -> the module inside the package that has it; the modules themselves are names too.
        through: What each of these names is handed out through.
    """

    def modules() -> set[str]:
        return {module.name for module in iter_modules(sys.modules[package].__path__)} - {"__main__"}

    def get(name: str) -> Any:
        if name in homes:
            value = through(getattr(import_module(f".{homes[name]}", package), name))
        elif not name.startswith("_") and name in modules():
            value = import_module(f".{name}", package)
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted(modules() | set(homes) | {"__version__"} & set(vars(sys.modules[package])))

    return get, names
