import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from lorascope.capture.samples.examples import Drawn, Examples, read_prompts
from lorascope.capture.samples.items import ChoiceItem, TextItem
from lorascope.capture.samples.prompt import Template, read_template


def an_item(name: str, *, dataset: str = "d", split: str = "train", question: str | None = None) -> ChoiceItem:
    asked = question if question is not None else f"Which is {name}?"
    return ChoiceItem(id=name, dataset=dataset, split=split, question=asked, choices=("a", "b", "c"), answer=1)


POOL = [an_item(str(number)) for number in range(40)]
ASKED = [an_item(str(number), split="test", question=f"Asked {number}?") for number in range(200)]


def names(drawn: Drawn) -> tuple[str, str, int]:
    return drawn.example.id, drawn.negative.id, drawn.wrong


def test_a_draw_follows_from_seed_and_name_alone() -> None:
    examples = Examples(POOL, seed=0)
    found = [names(examples.draw(item)) for item in ASKED]
    assert found == [names(examples.draw(item)) for item in reversed(ASKED)][::-1]
    # Nor from the order of what is drawn from, or other data sets beside it.
    others = [an_item(str(number), dataset="e") for number in range(7)]
    assert found == [names(Examples([*others, *reversed(POOL)], seed=0).draw(item)) for item in ASKED]
    in_order = sorted(item.id for item in POOL)
    hashes = [hashlib.sha256(f"0\0d\0{item.id}\0example".encode()).hexdigest() for item in ASKED]
    assert [name for name, _, _ in found] == [in_order[int(digest, 16) % 40] for digest in hashes]
    again = [an_item(item.id, split="other", question="Something else?") for item in ASKED]
    assert found == [names(examples.draw(item)) for item in again]
    assert found != [names(Examples(POOL, seed=1).draw(item)) for item in ASKED]
    renamed = [an_item(item.id, dataset="e") for item in ASKED]
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


def test_texts_are_items_with_an_answer() -> None:
    drawn = Drawn(POOL[3], POOL[5], 2)
    assert drawn.texts(read_template("prompt2")) == (
        "Which is 3?\nA. a\nB. b\nC. c\nAnswer: b",
        "Which is 5?\nA. a\nB. b\nC. c\nAnswer: c",
    )
    brief = Template(name="brief", text="{example} {negative} {stem}\nA:")
    assert drawn.texts(brief) == ("Which is 3?\nAnswer: b", "Which is 5?\nAnswer: c")


def test_a_negative_has_a_wrong_answer() -> None:
    same = ChoiceItem(id="same", dataset="d", split="", question="Same?", choices=("a", "a"), answer=0)
    for item in ASKED:
        drawn = Examples([same, *POOL[:2]], seed=0).draw(item)
        assert drawn.negative.id != "same"
    partly = ChoiceItem(id="partly", dataset="d", split="", question="Partly?", choices=("a", "a", "b"), answer=0)
    drawn = [Examples([partly, POOL[0]], seed=0).draw(item) for item in ASKED]
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
    assert names(prompts.examples.draw(ASKED[0])) == names(Examples(POOL, seed=3).draw(ASKED[0]))
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
    prompts.check([*ASKED, TextItem(id="t", dataset="other", split="", text="A text.")])
    with pytest.raises(ValueError, match="none of data set 'e'"):
        prompts.check([an_item("x", dataset="e")])
    read_prompts(["main"], [], seed=0).check([an_item("x", dataset="e")])


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
        (["prompt1"], ["d.txt"], "`examples` names 'd.txt', a plain text; name files of multiple-choice items"),
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
