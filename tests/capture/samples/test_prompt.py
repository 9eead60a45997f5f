import dataclasses
import doctest
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorascope.capture.samples import encoded, generate, items, prompt
from lorascope.capture.samples.items import LETTERS, ChoiceItem, TextItem
from lorascope.capture.samples.prompt import (
    PROMPTS,
    DrawnExamples,
    Examples,
    Template,
    read_prompts,
    read_template,
    render,
)

texts = st.text(min_size=1).filter(lambda text: bool(text.strip()))

METAL = ChoiceItem(
    id="1", dataset="d", split="", question="Which {metal} is liquid?", choices=("iron", "mercury"), answer=1
)
ASKED = "Which {metal} is liquid?\nA. iron\nB. mercury"
EXAMPLE, NEGATIVE = "2 + 2?\nA. 4\nB. 5\nAnswer: 4", "1 + 1?\nA. 3\nB. 2\nAnswer: 3"
DRAWN = DrawnExamples(
    ChoiceItem(id="e", dataset="d", split="", question="2 + 2?", choices=("4", "5"), answer=0),
    ChoiceItem(id="n", dataset="d", split="", question="1 + 1?", choices=("3", "2"), answer=1),
    0,
)


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
    rendered = render(template, METAL, DRAWN)
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
    rendered = render(read_template(name), item, DrawnExamples(item, item, 0))  # the same words, earlier in the text
    assert [rendered.text[start:stop] for start, stop in rendered.choice_spans] == choices
    asked = "".join([question, *(f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))])
    assert rendered.choice_spans[0][0] == rendered.text.rindex(f"{asked}\nAnswer:") + len(f"{question}\nA. ")


def test_letters_stand_before_the_choices() -> None:
    item = ChoiceItem(id="1", dataset="d", split="", question="?", choices=tuple(map(str, range(26))), answer=0)
    rendered = render(read_template("main"), item)
    before = "".join(rendered.text[start - 3] for start, _ in rendered.choice_spans)
    assert before == LETTERS == "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def test_what_is_put_in_is_left_as_it_is() -> None:
    item = ChoiceItem(
        id="1", dataset="d", split="", question="{example} {0} {{}} %s?", choices=("{question}", "{"), answer=0
    )
    example = dataclasses.replace(item, question="{stem}{x}")
    rendered = render(Template(name="t", text="{example}|{question}|A:"), item, DrawnExamples(example, example, 1))
    listed = "\nA. {question}\nB. {"
    assert rendered.text == f"{{stem}}{{x}}{listed}\nAnswer: {{question}}|{item.question}{listed}|A:"
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
    rendered = render(template, METAL, DrawnExamples(METAL, METAL, 0))
    assert rendered.text == "Q: Which {metal} is liquid?\nAnswer: mercury\nQ: Which {metal} is liquid?\nA:"
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


def test_refuses_to_leave_an_example_out() -> None:
    with pytest.raises(ValueError, match="prompt 'prompt2' shows {example}, but none is given"):
        render(read_template("prompt2"), METAL)


@pytest.mark.parametrize("module", [encoded, generate, items, prompt])
def test_examples_run(module: ModuleType) -> None:
    assert doctest.testmod(module).failed == 0


def an_item(name: str, *, dataset: str = "d", split: str = "train", question: str | None = None) -> ChoiceItem:
    asked = question if question is not None else f"Which is {name}?"
    return ChoiceItem(id=name, dataset=dataset, split=split, question=asked, choices=("a", "b", "c"), answer=1)


POOL = [an_item(str(number)) for number in range(40)]
QUESTIONS = [an_item(str(number), split="test", question=f"Asked {number}?") for number in range(200)]


def names(drawn: DrawnExamples) -> tuple[str, str, int]:
    return drawn.example.id, drawn.negative.id, drawn.wrong


def test_a_draw_follows_from_seed_and_name_alone() -> None:
    examples = Examples(POOL, seed=0)
    found = [names(examples.draw(item)) for item in QUESTIONS]
    assert found == [names(examples.draw(item)) for item in reversed(QUESTIONS)][::-1]
    # Not from the pool's order, or other data sets in it.
    others = [an_item(str(number), dataset="e") for number in range(7)]
    assert found == [names(Examples([*others, *reversed(POOL)], seed=0).draw(item)) for item in QUESTIONS]
    in_order = sorted(item.id for item in POOL)
    hashes = [hashlib.sha256(f"0\0d\0{item.id}\0example".encode()).hexdigest() for item in QUESTIONS]
    assert [name for name, _, _ in found] == [in_order[int(digest, 16) % 40] for digest in hashes]
    again = [an_item(item.id, split="other", question="Something else?") for item in QUESTIONS]
    assert found == [names(examples.draw(item)) for item in again]
    assert found != [names(Examples(POOL, seed=1).draw(item)) for item in QUESTIONS]
    renamed = [an_item(item.id, dataset="e") for item in QUESTIONS]
    assert found != [names(Examples([*POOL, *others], seed=0).draw(item)) for item in renamed]


def test_draws_are_even() -> None:
    # Each of 4 examples, of 3 negatives then and of 2 wrong answers has the same chance: 24 cells of 100 draws.
    asked = [an_item(f"asked {number}") for number in range(2400)]
    counts = Counter(names(Examples(POOL[:4], seed=0).draw(item)) for item in asked)
    assert len(counts) == 24
    chi_squared = sum((count - 100) ** 2 / 100 for count in counts.values())
    assert 9 < chi_squared < 50  # 23 degrees of freedom: from the lowest 0.4 % to the highest 0.1 %


def test_an_item_is_never_its_own_example() -> None:
    twins = [an_item(f"twin {number}", question=f"  WHICH is\n{number}? ") for number in range(40)]
    examples = Examples([*POOL, *twins], seed=0)
    for item in POOL:
        drawn = examples.draw(item)
        assert len({one.question.split()[-1] for one in (item, drawn.example, drawn.negative)}) == 3
        assert drawn.wrong != drawn.negative.answer


def test_the_last_that_are_left_are_drawn() -> None:
    drawn = Examples(POOL[:3], seed=0).draw(POOL[0])
    assert {drawn.example.id, drawn.negative.id} == {"1", "2"}


def test_a_negative_has_a_wrong_answer() -> None:
    same = ChoiceItem(id="same", dataset="d", split="", question="Same?", choices=("a", "a"), answer=0)
    for item in QUESTIONS:
        drawn = Examples([same, *POOL[:2]], seed=0).draw(item)
        assert drawn.negative.id != "same"
    partly = ChoiceItem(id="partly", dataset="d", split="", question="Partly?", choices=("a", "a", "b"), answer=0)
    drawn = [Examples([partly, POOL[0]], seed=0).draw(item) for item in QUESTIONS]
    assert {one.wrong for one in drawn if one.negative.id == "partly"} == {2}


@pytest.mark.parametrize("pool", [POOL[:2], [POOL[0], POOL[1], an_item("x", question="which is 1?")]])
def test_refuses_too_few(pool: Sequence[ChoiceItem]) -> None:
    with pytest.raises(ValueError, match="`examples` holds too few of data set 'd' for item '0'; give at least two"):
        Examples(pool, seed=0).draw(POOL[0])


def test_refuses_another_data_set() -> None:
    with pytest.raises(ValueError, match="none of data set 'e', only of d; add a file of its items"):
        Examples(POOL, seed=0).draw(an_item("x", dataset="e"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "d.train.jsonl"
    rows = [{"id": i.id, "question": i.question, "choices": i.choices, "answer": i.answer} for i in POOL]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_prompts_are_read_in_order_with_their_examples(file: Path, tmp_path: Path) -> None:
    prompts = read_prompts(["prompt2", "main"], [str(file)], seed=3)
    assert [template.name for template in prompts.templates] == ["prompt2", "main"]
    assert prompts.examples is not None
    assert names(prompts.examples.draw(QUESTIONS[0])) == names(Examples(POOL, seed=3).draw(QUESTIONS[0]))
    # What shows none does without.
    assert read_prompts(["main", "prompt3"], ["nowhere.jsonl"], seed=0).examples is None


def test_a_description_knows_wordings_and_items(file: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("{example} {question} A:")
    described = read_prompts([str(own)], [str(file)], seed=0).description()
    assert json.loads(json.dumps(described)) == described
    assert described["names"] == ["own"]
    assert described["templates"]["own"]["text"] == "{example} {question} A:"
    assert described["examples"]["n_items"] == 40
    assert "examples" not in read_prompts(["main"], [str(file)], seed=0).description()
    own.write_text("{example} {question} B:")
    assert read_prompts([str(own)], [str(file)], seed=0).description()["templates"] != described["templates"]
    file.write_text(file.read_text().replace('"answer": 1', '"answer": 0', 1))
    changed = read_prompts([str(own)], [str(file)], seed=0).description()
    assert changed["examples"]["sha256"] != described["examples"]["sha256"]


def test_checks_items_before_anything_is_encoded(file: Path) -> None:
    prompts = read_prompts(["prompt1"], [str(file)], seed=0)
    prompts.require_examples([*QUESTIONS, TextItem(id="t", dataset="other", split="", text="A text.")])
    with pytest.raises(ValueError, match="none of data set 'e'"):
        prompts.require_examples([an_item("x", dataset="e")])
    read_prompts(["main"], [], seed=0).require_examples([an_item("x", dataset="e")])


@pytest.mark.parametrize(
    ("prompts", "files", "words"),
    [
        (
            ["main", "prompt1"],
            [],
            "prompt 'prompt1' shows examples, but `examples` is empty; name a file of items to draw from",
        ),
        (["main", "prompt3", "main"], [], "`prompt` names 'main' twice; give each prompt once"),
        (["prompt1"], ["d.train.jsonl", "d.train.jsonl"], "`examples` names a file twice"),
        (
            ["prompt1"],
            ["d.train.jsonl", "more/d.train.jsonl"],
            "item '0' of 'd' stands in both 'd.train.jsonl' and 'mo",
        ),
        (["prompt1"], ["d.txt"], "`examples` names 'd.txt', without questions; name files of multiple-choice items"),
    ],
)
def test_refuses_what_makes_no_prompts(
    prompts: list[str], files: list[str], words: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file.parent / "more").mkdir()
    (file.parent / "more/d.train.jsonl").write_text(file.read_text())
    (file.parent / "d.txt").write_text("A text.")
    monkeypatch.chdir(file.parent)
    with pytest.raises(ValueError, match=words):
        read_prompts(prompts, files, seed=0)
