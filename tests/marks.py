"""Marks of cases: many of them run in `make test-all` alone."""

from collections.abc import Iterable
from typing import Any

import pytest


def slow_but(cases: Iterable[Any], *quick: Any) -> list[Any]:
    """The cases of a parametrised test, all marked slow but the quick ones; a tuple has several arguments."""
    arguments = {case: case if isinstance(case, tuple) else (case,) for case in cases}
    return [case if case in quick else pytest.param(*arguments[case], marks=pytest.mark.slow) for case in arguments]
