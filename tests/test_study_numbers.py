"""`docs/study-smollm2.md` holds what `benchmarks/study_numbers.py` prints of the results in `studies`."""

import pytest

from .printed import benchmark, differing, numbers_of, words


@pytest.mark.slow
def test_the_page_holds_what_the_results_say() -> None:
    page, text = numbers_of("study-smollm2.md"), benchmark("study_numbers").report()
    assert len(words(page)) > 1000
    assert differing(page, text) == []
