"""`docs/paper-audit.md` holds what `benchmarks/paper_numbers.py` prints."""

import importlib.util
import math
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
NUMBER = re.compile(r"-?\d+\.?\d*(?:e[+-]?\d+)?$")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("paper_numbers", ROOT / "benchmarks" / "paper_numbers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def words(text: str) -> list[str]:
    return [word for word in text.split() if word != "|"]


def same(printed: str, found: str) -> bool:
    """Whether two words are the same, numbers to four digits."""
    if NUMBER.match(printed) and NUMBER.match(found):
        return math.isclose(float(printed), float(found), rel_tol=1e-4, abs_tol=1e-300)
    return printed == found


@pytest.mark.slow
def test_the_page_holds_what_the_script_prints(script: ModuleType) -> None:
    page = (ROOT / "docs" / "paper-audit.md").read_text().partition("## Numbers\n\n")[2]
    printed, found = words(page), words(script.report())
    assert len(printed) == len(found) > 2000
    assert [pair for pair in zip(printed, found, strict=True) if not same(*pair)] == []


def test_the_comparison_can_fail() -> None:
    assert not same("0.29430", "0.29437")
    assert not same("open", "1")
    assert same("1.57720e-14", "1.577201e-14")
