"""Every number in README and on the pages of statistics has a source, and is what the source says.

`tests/said` has a file for each page. Where a page gets a new number, or another one, the file gets a line that
computes it: from the code, a committed file of results, another page's table or an equation.
"""

import importlib
import re
from functools import cache

import pytest

from .printed import differing, numbers_of, same, script, words
from .said import study_smollm2
from .said.page import ROOT, Saying, changed, holds, missing, numbers, plain, problems, quoted, said, unheld

PAGES = {
    "README.md": "readme",
    "docs/mathematics.md": "mathematics",
    "docs/mi-and-js.md": "mi_and_js",
    "docs/mutual-information.md": "mutual_information",
    "docs/paper-audit.md": "paper_audit",
    "docs/scale.md#Measured: opening and reading over S3": "scale_s3",
    "docs/scaling-laws.md": "scaling_laws",
}
"""Page, or one section of it -> the file in `tests/said` with its sources."""


def text_of(page: str) -> str:
    """A page in plain text; of the paper's tables, what stands above the methods and the numbers of a script."""
    name, _, section = page.partition("#")
    text = (ROOT / name).read_text()
    if section:
        text = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return plain(text.partition("\n## How the numbers were computed\n")[0])


@cache
def sayings(page: str) -> tuple[Saying, ...]:
    module = importlib.import_module(f".said.{PAGES[page]}", __package__)
    return tuple(module.sayings())


@pytest.mark.parametrize("page", PAGES)
def test_every_number_of_a_page_is_what_its_source_says(page: str) -> None:
    assert "\n".join(problems(text_of(page), sayings(page))) == ""


@pytest.mark.parametrize("page", PAGES)
def test_any_other_number_in_its_place_is_found(page: str) -> None:
    held = sayings(page)
    kept = [number for number, text in changed(text_of(page)) if not (missing(text, held) or unheld(text, held))]
    assert kept == []


def test_the_parts_of_the_demo_in_the_readme_add_up_to_its_whole() -> None:
    text = (ROOT / "README.md").read_text()
    whole = re.search(r"^MIUB \(([\d.]+) ± .*; (\d+) samples, \d+ tokens, (\d+) components\)$", text, re.MULTILINE)
    parts = re.findall(r"^│ \w+_proj +│ +([\d.]+) ± [\d.]+ │ +(\d+) │ +(\d+) │$", text, re.MULTILINE)
    assert whole is not None
    miub, samples, components = zip(*parts, strict=True)
    assert sum(map(float, miub)) == pytest.approx(float(whole[1]), abs=1e-3)
    assert set(samples) == {whole[2]}
    assert sum(map(int, components)) == int(whole[3])
    shares = re.findall(r" ([\d.]+) % │$", text, re.MULTILINE)
    assert sum(map(float, shares)) == pytest.approx(100, abs=0.5)


def test_what_counts_as_a_number() -> None:
    text = plain("# A page\n\n1. In eq. 9 and *section 4.5* of 2 files `x = 3`, Half\nof N0 is -1.5e-3.\n")
    assert [text[begin:end] for begin, end in numbers(text)] == ["2", "Half", "1.5e-3"]
    assert len(problems(text, [said("{} files", 2), said("{} of N0", "Half")])) == 1
    assert len(problems(text, [said("{} files", 3), quoted("Half of N0 is -1.5e-3", place="eq. 9")])) == 2


def test_an_equation_is_computed_as_printed() -> None:
    assert holds("2 JS < I/2 + ln 2", {"JS": 0.1, "I": 0.5})
    assert not holds("2 JS > I/2 + ln 2", {"JS": 0.1, "I": 0.5})
    assert holds("(ln 2)² = 0.48", {})
    assert not holds("(ln 2)² = 0.49", {})
    assert holds("f(t) = t ln(2t/(1 + t))", {"f(t)": 3 * 0.405465108108, "t": 3.0})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "path"),
    [("paper-audit.md", "study/paper_audit/paper_numbers.py"), ("study-smollm2.md", "benchmarks/study_numbers.py")],
)
def test_a_page_holds_what_its_script_prints(page: str, path: str) -> None:
    text = script(path).report()
    assert len(words(numbers_of(page))) > 1000
    assert differing(numbers_of(page), text) == []


def test_the_comparison_can_fail() -> None:
    assert not same("0.29430", "0.29437")
    assert not same("open", "1")
    assert same("1.57720e-14", "1.577201e-14")


def test_what_the_text_says_of_the_first_study_is_in_its_numbers() -> None:
    text = plain((ROOT / "docs/study-smollm2.md").read_text().partition("\n## Numbers\n")[0])
    assert [saying.text for saying in missing(text, study_smollm2.sayings())] == []
