"""Compares a page's numbers with those that a script prints."""

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
    """A script of this repository as a module; it may import scripts of its folder."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    folder = str((ROOT / path).parent)
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(folder)
    return module


def numbers_of(page: str) -> str:
    """Text of a page below its heading `Numbers`."""
    return (ROOT / "docs" / page).read_text().partition("## Numbers\n\n")[2]


def words(text: str) -> list[str]:
    """Words of a text, without the bars of tables."""
    return [word for word in text.split() if word != "|"]


def same(printed: str, found: str) -> bool:
    """Whether two words are the same, numbers to four digits."""
    if NUMBER.match(printed) and NUMBER.match(found):
        return math.isclose(float(printed), float(found), rel_tol=1e-4, abs_tol=1e-300)
    return printed == found


def differing(page: str, text: str) -> list[tuple[str, str]]:
    """Pairs of words of a page and a text that differ."""
    return [pair for pair in zip(words(page), words(text), strict=True) if not same(*pair)]
