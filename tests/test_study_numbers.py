"""`docs/study-smollm2.md` holds what `benchmarks/study_numbers.py` prints of the results in `studies`."""

import pytest

from .printed import benchmark, differing, numbers_of, words
from .said.page import ROOT, missing, plain
from .said.study_smollm2 import sayings


@pytest.mark.slow
def test_the_page_holds_what_the_results_say() -> None:
    page, text = numbers_of("study-smollm2.md"), benchmark("study_numbers").report()
    assert len(words(page)) > 1000
    assert differing(page, text) == []


def test_what_the_text_says_of_the_first_study_is_in_its_numbers() -> None:
    text = plain((ROOT / "docs/study-smollm2.md").read_text().partition("\n## Numbers\n")[0])
    assert [saying.text for saying in missing(text, sayings())] == []
