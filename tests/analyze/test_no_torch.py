import json
import subprocess
import sys
from pathlib import Path

FORBIDDEN = ("torch", "transformers", "peft", "accelerate", "sklearn")

# Imports packages with all their submodules and prints which forbidden ones came along.
CHECK = """
import importlib, json, pkgutil, sys

packages, forbidden = json.loads(sys.argv[1])
modules = []
for package in map(importlib.import_module, packages):
    found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    modules += [importlib.import_module(module.name).__name__ for module in found]
print(json.dumps([modules, [name for name in forbidden if name in sys.modules]]))
"""


def imported_by(packages: list[str], path: Path | None = None) -> tuple[list[str], list[str]]:
    """Return the submodules of packages and what forbidden packages importing them brings, in a fresh interpreter."""
    check = CHECK if path is None else f"import sys\nsys.path.insert(0, {str(path)!r})\n{CHECK}"
    command = [sys.executable, "-c", check, json.dumps([packages, FORBIDDEN])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    modules, found = json.loads(done.stdout)
    return modules, found


def test_stores_and_analyze_import_without_torch() -> None:
    """Nor with scikit-learn, which takes a second and is imported where it is needed."""
    modules, found = imported_by(["lorascope.stores", "lorascope.kernels", "lorascope.analyze"])
    assert {"lorascope.stores.format.layout", "lorascope.kernels.softmax"} <= set(modules)
    assert found == []


def test_the_check_can_fail(tmp_path: Path) -> None:
    # The offender lies in a subpackage, and its torch is a stand-in, so that this runs where torch isn't installed.
    (tmp_path / "torch.py").touch()
    (tmp_path / "heavy" / "inner").mkdir(parents=True)
    (tmp_path / "heavy" / "__init__.py").touch()
    (tmp_path / "heavy" / "inner" / "__init__.py").touch()
    (tmp_path / "heavy" / "inner" / "offender.py").write_text("import torch\n", encoding="utf-8")
    modules, found = imported_by(["heavy"], tmp_path)
    assert modules == ["heavy.inner", "heavy.inner.offender"]
    assert found == ["torch"]
