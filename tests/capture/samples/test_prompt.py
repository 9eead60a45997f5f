import doctest
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorascope.capture.samples import answers, batches, lengths, prompt, selection
from lorascope.capture.samples.items import ChoiceItem
from lorascope.capture.samples.prompt import PROMPTS, Template, laid_out, read_template, render

texts = st.text(min_size=1).filter(lambda text: bool(text.strip()))

METAL = ChoiceItem(
    id="1", dataset="d", split="", question="Which {metal} is liquid?", choices=("iron", "mercury"), answer=1
)
ASKED = "Which {metal} is liquid?\nA. iron\nB. mercury"
EXAMPLE, NEGATIVE = "2 + 2?\nA. 4\nB. 5\nAnswer: 4", "1 + 1?\nA. 3\nB. 2\nAnswer: 3"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("main", f"Choose the correct answer for the following question: {ASKED}\nAnswer:"),
        (
            "prompt1",
            "Choose the correct answer for the following question. Here is an example shown below: "
            f"{EXAMPLE}\nThe new question is: {ASKED}\nAnswer:",
        ),
        (
            "prompt2",
            "Choose the correct answer for the following question. Here is an positive example shown below: "
            f"{EXAMPLE}\nHere is an negative example shown below: {NEGATIVE}\nThe new question is: {ASKED}\nAnswer:",
        ),
        (
            "prompt3",
            "Please note that you can only choose from A, B, c or D. Choose the correct answer for the following "
            f"question: {ASKED}\nAnswer:",
        ),
    ],
)
def test_the_papers_prompts_word_for_word(name: str, text: str) -> None:
    template = read_template(name)
    assert (template.name, template.cue, template.shows_examples) == (name, "Answer:", "example" in text)
    rendered = render(template, METAL, EXAMPLE, NEGATIVE)
    assert rendered.text == text
    found = [(start, rendered.text[start:stop]) for start, stop in rendered.choice_spans]
    assert found == [(text.rindex("iron"), "iron"), (text.rindex("mercury"), "mercury")]


def test_the_guide_quotes_them() -> None:
    guide = (Path(__file__).parents[3] / "docs/capture.md").read_text()
    for name in PROMPTS:
        quoted = read_template(name).text.replace("\n", "<br>")
        assert any(line.startswith(f"| `{name}`") and line.endswith(f"| {quoted} |") for line in guide.splitlines())


@given(name=st.sampled_from(PROMPTS), question=texts, choices=st.lists(texts, min_size=2, max_size=26))
def test_spans_find_the_items_own_choices(name: str, question: str, choices: list[str]) -> None:
    item = ChoiceItem(id="1", dataset="d", split="", question=question, choices=tuple(choices), answer=0)
    example = laid_out(item, 0, with_choices=True)  # the same words, earlier in the text
    rendered = render(read_template(name), item, example, example)
    assert [rendered.text[start:stop] for start, stop in rendered.choice_spans] == choices
    assert rendered.choice_spans[0][0] == rendered.text.rindex(
        laid_out(item, 0, with_choices=True).removesuffix(f" {choices[0]}")
    ) + len(f"{question}\nA. ")


def test_letters_stand_before_the_choices() -> None:
    item = ChoiceItem(id="1", dataset="d", split="", question="?", choices=tuple(map(str, range(26))), answer=0)
    rendered = render(read_template("main"), item)
    before = "".join(rendered.text[start - 3] for start, _ in rendered.choice_spans)
    assert before == "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def test_what_is_put_in_is_left_as_it_is() -> None:
    item = ChoiceItem(
        id="1", dataset="d", split="", question="{example} {0} {{}} %s?", choices=("{question}", "{"), answer=0
    )
    rendered = render(Template(name="t", text="{negative}|{example}|{question}|A:"), item, "{question}", "{x}")
    assert rendered.text == "{x}|{question}|{example} {0} {{}} %s?\nA. {question}\nB. {|A:"
    assert [rendered.text[start:stop] for start, stop in rendered.choice_spans] == ["{question}", "{"]


def test_a_template_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_bytes(b"\xef\xbb\xbf{} {a b} {{\r\n  Q: {question}\r\nThe answer is:  \r\n\r\n")
    template = read_template(str(file))
    assert template == Template(name="mine", text="{} {a b} {{\n  Q: {question}\nThe answer is:")
    assert template.cue == "The answer is:"
    assert render(template, METAL).text == f"{{}} {{a b}} {{{{\n  Q: {ASKED}\nThe answer is:"


def test_a_stem_lists_no_choices() -> None:
    template = Template(name="brief", text="Q: {example}\nQ: {stem}\nA:")
    rendered = render(template, METAL, laid_out(METAL, 0, with_choices=template.lists_choices))
    assert rendered.text == "Q: Which {metal} is liquid?\nAnswer: iron\nQ: Which {metal} is liquid?\nA:"
    assert rendered.choice_spans == ()
    assert template.shows_examples
    assert not Template(name="brief", text="Q: {stem}\nA:").shows_examples
    assert read_template("main").lists_choices


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "{question} {choices}\nA:",
            r"prompt 'mine' has the placeholder {choices}; allowed are {question}, {stem}, {example}, {n",
        ),
        ("{Question}\nA:", "has the placeholder {Question}"),
        ("Nothing.\nA:", r"prompt 'mine' has {question} or {stem} 0 times; give one once"),
        ("{question} {question}\nA:", r"has {question} or {stem} 2 times"),
        ("{question} {stem}\nA:", r"has {question} or {stem} 2 times"),
        ("", r"has {question} or {stem} 0 times"),
        ("Q: {question}\n", "prompt 'mine' ends in a placeholder; end it with words such as 'Answer:'"),
    ],
)
def test_refuses_what_is_no_template(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        read_template(str(tmp_path / "mine.txt"))
    assert "\n" not in str(caught.value)


def test_refuses_files_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"prompt file '.*none.txt' doesn't exist; name a template in .txt"):
        read_template(str(tmp_path / "none.txt"))
    with pytest.raises(ValueError, match="`prompt` is 'prompt4'; allowed are main, prompt1, prompt2, prompt3, or the"):
        read_template("prompt4")
    for name in ("main", "text"):
        with pytest.raises(ValueError, match=f"would be named {name!r} like another prompt; rename it"):
            read_template(str(tmp_path / f"{name}.txt"))
    (tmp_path / "latin.txt").write_bytes(b"Q {question} \xe9 A:")
    with pytest.raises(ValueError, match=r"latin.txt: byte 13 isn't UTF-8"):
        read_template(str(tmp_path / "latin.txt"))


@pytest.mark.parametrize(("given", "missing"), [((), "{example}"), ((EXAMPLE,), "{negative}")])
def test_refuses_to_leave_an_example_out(given: tuple[str, ...], missing: str) -> None:
    with pytest.raises(ValueError, match=f"prompt 'prompt2' shows {missing}, but none is given"):
        render(read_template("prompt2"), METAL, *given)


@pytest.mark.parametrize("module", [answers, batches, lengths, prompt, selection])
def test_examples_run(module: ModuleType) -> None:
    assert doctest.testmod(module).failed == 0
