import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorascope.capture.samples import prompt
from lorascope.capture.samples.items import ChoiceItem
from lorascope.capture.samples.prompt import continuation, render_main

texts = st.text(min_size=1).filter(lambda text: bool(text.strip()))


def test_renders_the_main_prompt() -> None:
    item = ChoiceItem(
        id="1", dataset="d", split="", question="Which {metal} is liquid?", choices=("iron", "mercury"), answer=1
    )
    assert render_main(item).text == (
        "Choose the correct answer for the following question: Which {metal} is liquid?\nA. iron\nB. mercury\nAnswer:"
    )
    assert continuation("mercury") == " mercury"


@given(question=texts, choices=st.lists(texts, min_size=2, max_size=26))
def test_spans_find_the_choices(question: str, choices: list[str]) -> None:
    item = ChoiceItem(id="1", dataset="d", split="", question=question, choices=tuple(choices), answer=0)
    rendered = render_main(item)
    assert [rendered.text[start:stop] for start, stop in rendered.choice_spans] == choices


@pytest.mark.parametrize(("index", "letter"), [(0, "A"), (25, "Z")])
def test_letters_stand_before_the_choices(index: int, letter: str) -> None:
    item = ChoiceItem(id="1", dataset="d", split="", question="?", choices=tuple(map(str, range(26))), answer=0)
    rendered = render_main(item)
    start = rendered.choice_spans[index][0]
    assert rendered.text[start - 4 : start] == f"\n{letter}. "


def test_examples_run() -> None:
    assert doctest.testmod(prompt).failed == 0
