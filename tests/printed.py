"""A page's numbers beside what a script prints."""

import importlib.util
import math
import re
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
NUMBER = re.compile(r"-?\d+\.?\d*(?:e[+-]?\d+)?$")


def benchmark(name: str) -> ModuleType:
    """A script of `benchmarks/` as a module."""
    return script(f"benchmarks/{name}.py")


def script(path: str) -> ModuleType:
    """A script of this repository as a module; it may import those beside it."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    beside = str((ROOT / path).parent)
    sys.path.insert(0, beside)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(beside)
    return module


def numbers_of(page: str) -> str:
    """What stands on a page below its heading `Numbers`."""
    return (ROOT / "docs" / page).read_text().partition("## Numbers\n\n")[2]


def words(text: str) -> list[str]:
    """Words of a text, but for the bars of tables."""
    return [word for word in text.split() if word != "|"]


def same(printed: str, found: str) -> bool:
    """Whether two words are the same, numbers to four digits."""
    if NUMBER.match(printed) and NUMBER.match(found):
        return math.isclose(float(printed), float(found), rel_tol=1e-4, abs_tol=1e-300)
    return printed == found


def differing(page: str, text: str) -> list[tuple[str, str]]:
    """Words of a page and of a text that aren't the same."""
    return [pair for pair in zip(words(page), words(text), strict=True) if not same(*pair)]
