"""Lazy imports of a package's public names, so that importing a constant doesn't import torch."""

import ast
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any


def import_on_demand(package: str) -> None:
    """Make a package import each public name, listed under its `if TYPE_CHECKING`, only when it is first used."""
    source = Path(str(sys.modules[package].__file__)).read_text(encoding="utf-8")
    checked = [node for node in ast.parse(source).body if isinstance(node, ast.If)]
    imports = [node for block in checked for node in block.body if isinstance(node, ast.ImportFrom)]
    homes = {alias.name: f"{'.' * node.level}{node.module or alias.name}" for node in imports for alias in node.names}
    modules = {alias.name for node in imports if node.module is None for alias in node.names}

    class OnDemand(ModuleType):
        """Module that imports each public name at its first use."""

        def __getattr__(self, name: str) -> Any:
            """Import and return a public name; raises AttributeError for any other name."""
            if name not in homes:
                raise AttributeError(f"module {package!r} has no attribute {name!r}")
            home = import_module(homes[name], package)
            return home if name in modules else getattr(home, name)

        def __setattr__(self, name: str, value: Any) -> None:
            """Set an attribute, but ignore a submodule that would replace a public name."""
            # Importing a module binds its name in the package, which would hide the function of that name.
            if not (name in homes and isinstance(value, ModuleType)):
                super().__setattr__(name, value)

        def __dir__(self) -> list[str]:
            """Return the public names and the module's dunder names, sorted."""
            return sorted({*homes, *(name for name in super().__dir__() if name.startswith("__"))})

    sys.modules[package].__class__ = OnDemand
