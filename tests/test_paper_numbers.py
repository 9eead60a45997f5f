"""`docs/paper-audit.md` holds what `study/paper_audit/paper_numbers.py` prints."""

import pytest

from .printed import differing, numbers_of, same, script, words


@pytest.mark.slow
def test_the_page_holds_what_the_script_prints() -> None:
    page, text = numbers_of("paper-audit.md"), script("study/paper_audit/paper_numbers.py").report()
    assert len(words(page)) > 2000
    assert differing(page, text) == []


def test_the_comparison_can_fail() -> None:
    assert not same("0.29430", "0.29437")
    assert not same("open", "1")
    assert same("1.57720e-14", "1.577201e-14")
