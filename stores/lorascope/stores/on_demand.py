"""A package's public objects, imported when one of them is first asked for: who wants a constant waits for no torch."""

import sys
from collections.abc import Collection
from importlib import import_module
from types import ModuleType
from typing import Any


def import_on_demand(package: str, names: Collection[str]) -> None:
    """Have a package give these names from its module `public`, which is imported when the first of them is wanted."""

    class OnDemand(ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name not in names:
                raise AttributeError(f"module {package!r} has no attribute {name!r}")
            return getattr(import_module(".public", package), name)

        def __setattr__(self, name: str, value: Any) -> None:
            # Importing a module binds its name in the package, which would hide the function of that name.
            if not (name in names and isinstance(value, ModuleType)):
                super().__setattr__(name, value)

        def __dir__(self) -> list[str]:
            return sorted({*super().__dir__(), *names})

    sys.modules[package].__class__ = OnDemand
