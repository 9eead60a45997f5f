"""Data sets by name: folders in the hub's own layout, made here of made-up content, read by `datasets` itself."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest

from lorascope.capture.config import CaptureConfig
from lorascope.capture.samples.hub import KNOWN_SETS, hub_source, parse_reference
from lorascope.capture.samples.items import ChoiceItem, TextItem
from lorascope.capture.samples.sources import read_items
from lorascope.capture.settling.data import read_data

Rows = Sequence[Mapping[str, Any]]
PIQA = [
    {"goal": " To open a tin ", "sol1": "use a tin opener", "sol2": "use a spoon ", "label": 0},
    {"goal": "To dry a plate", "sol1": "dip it in water", "sol2": "use a towel", "label": 1},
]
ARC = [
    {
        "id": "Made_7",
        "question": "Which is a metal?",
        "choices": {"text": ["wood", "iron", "wool"], "label": ["A", "B", "C"]},
        "answerKey": "B",
    },
    {
        "id": "Made_8",
        "question": "Which is a gas?",
        "choices": {"text": ["air", "ice", "salt", "sand"], "label": ["1", "2", "3", "4"]},
        "answerKey": "1",
    },
]
WINOGRANDE = [
    {"sentence": "The cup fits the box as the _ is big.", "option1": "cup", "option2": "box", "answer": "2"},
    {"sentence": "Ann thanked Eve, for _ had helped.", "option1": "Ann", "option2": "Eve", "answer": "2"},
]
HELLASWAG = [
    {
        "activity_label": "Cooking",
        "ctx": "[header] How to boil an egg [title] Heat water.",
        "endings": ["Put it in.", "Sing.", "Run off.", "Sleep. [substeps] Snore."],
        "label": "0",
    }
]
WIKITEXT = [{"text": row} for row in ("", " = Made up = \n", "", " It is n't real . \n", "", " = = Why = = \n", "")]
PTB = [{"sentence": "no it was made up"}, {"sentence": "<unk> said N words"}]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `datasets` prepares lies with the test; and no test waits for a hub."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.fixture
def parquet(tmp_path: Path) -> Callable[..., Path]:
    """Write rows as a Parquet file of a repository, and return the repository's folder."""

    def write(name: str, rows: Rows, folder: str = "repository", **features: Any) -> Path:
        table = datasets.Dataset.from_list([dict(row) for row in rows])
        for column, feature in features.items():
            table = table.cast_column(column, feature)
        path = tmp_path / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        datasets.disable_progress_bars()
        table.to_parquet(path)
        datasets.enable_progress_bars()
        return tmp_path / folder

    return write


def test_piqa(parquet: Callable[..., Path]) -> None:
    label = datasets.ClassLabel(names=["0", "1"])
    for split in ("train", "validation"):
        folder = parquet(f"plain_text/{split}/0000.parquet", PIQA, label=label)
    questions = [
        ("To open a tin", ("use a tin opener", "use a spoon")),
        ("To dry a plate", ("dip it in water", "use a towel")),
    ]
    assert read_items(f"piqa:validation@{folder}") == [
        ChoiceItem(
            id=f"piqa-validation-{n}", dataset="piqa", split="validation", question=question, choices=choices, answer=n
        )
        for n, (question, choices) in enumerate(questions)
    ]


def test_arc_has_a_configuration_for_each_set_and_answers_by_letter_or_number(
    parquet: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    parquet("ARC-Easy/test-00000-of-00001.parquet", ARC)
    folder = parquet("ARC-Challenge/test-00000-of-00001.parquet", [ARC[0] | {"id": "Made_9", "answerKey": "A"}])
    easy, challenge = (read_items(f"{name}:test@{folder}") for name in ("arc_easy", "arc_challenge"))
    assert [(item.id, item.dataset, item.choices, item.answer) for item in easy if isinstance(item, ChoiceItem)] == [
        ("Made_7", "arc_easy", ("wood", "iron", "wool"), 1),
        ("Made_8", "arc_easy", ("air", "ice", "salt", "sand"), 0),
    ]
    assert [(item.id, item.dataset) for item in challenge] == [("Made_9", "arc_challenge")]
    # The library's own bars were off meanwhile, and are as they were.
    assert capfd.readouterr() == ("", "")
    assert not datasets.are_progress_bars_disabled()


def test_winogrande_in_another_size(parquet: Callable[..., Path]) -> None:
    parquet("winogrande_xl/train-00000-of-00001.parquet", WINOGRANDE[:1])
    folder = parquet("winogrande_l/train-00000-of-00001.parquet", WINOGRANDE)
    assert len(read_items(f"winogrande:train@{folder}")) == 1
    items = read_items(f"winogrande/winogrande_l:train@{folder}")
    assert [(item.id, item.question, item.choices, item.answer) for item in items if isinstance(item, ChoiceItem)] == [
        ("winogrande-train-0", WINOGRANDE[0]["sentence"], ("cup", "box"), 1),
        ("winogrande-train-1", WINOGRANDE[1]["sentence"], ("Ann", "Eve"), 1),
    ]


def test_hellaswag_keeps_its_wording(parquet: Callable[..., Path]) -> None:
    (item,) = read_items(f"hellaswag:validation@{parquet('data/validation-00000-of-00001.parquet', HELLASWAG)}")
    assert isinstance(item, ChoiceItem)
    assert item.question == "[header] How to boil an egg [title] Heat water."
    assert item.choices == ("Put it in.", "Sing.", "Run off.", "Sleep. [substeps] Snore.")
    assert (item.id, item.answer) == ("hellaswag-validation-0", 0)


def test_texts_are_those_of_the_original_files(parquet: Callable[..., Path], tmp_path: Path) -> None:
    parquet("wikitext-2-raw-v1/test-00000-of-00001.parquet", WIKITEXT)
    folder = parquet("wikitext-2-v1/test-00000-of-00001.parquet", WIKITEXT[1:2])
    file = tmp_path / "wikitext2.test.txt"
    file.write_text(" \n = Made up = \n \n It is n't real . \n \n = = Why = = \n \n")
    assert read_items(f"wikitext2:test@{folder}") == read_items(file)
    (other,) = read_items(f"wikitext2/wikitext-2-v1:test@{folder}")
    assert isinstance(other, TextItem)
    assert other.text == " = Made up = \n"
    (ptb,) = read_items(f"ptb:test@{parquet('penn_treebank/test/0000.parquet', PTB, 'ptb')}")
    assert ptb == TextItem(
        id="ptb.test", dataset="ptb", split="test", text=" no it was made up \n <unk> said N words \n"
    )


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("piqa", [PIQA[0] | {"label": -1}]),
        ("winogrande", [WINOGRANDE[0], WINOGRANDE[0] | {"answer": ""}]),
        ("hellaswag", [HELLASWAG[0] | {"label": "4"}]),
        ("arc_easy", [ARC[0] | {"answerKey": "D"}]),
    ],
)
def test_items_without_an_answer_are_refused(parquet: Callable[..., Path], name: str, rows: Rows) -> None:
    folder = parquet("test-00000-of-00001.parquet", rows)
    words = f"row {len(rows) - 1}: no answer is given; take a split with published answers$"
    with pytest.raises(ValueError, match=words):
        read_items(f"{name}:test@{folder}")


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("arc_easy", ARC[0] | {"choices": None}),
        ("arc_easy", ARC[0] | {"choices": {"text": ["wood", "iron", "wool"], "label": ["A", "B"]}}),
        ("arc_easy", ARC[0] | {"choices": {"text": ["wood", "iron"], "label": ["B", "B"]}}),
        ("hellaswag", HELLASWAG[0] | {"endings": None}),
    ],
)
def test_rows_of_another_form_are_refused(parquet: Callable[..., Path], name: str, row: Any) -> None:
    folder = parquet("train.parquet", [row])
    with pytest.raises(ValueError, match=f"^{name}:train@.*, row 0: {{'.*isn't a row of '{name}'$"):
        read_items(f"{name}:train@{folder}")


@pytest.mark.parametrize(
    ("name", "rows", "words"),
    [
        ("hellaswag", [HELLASWAG[0] | {"endings": "ab"}], "row 0: `choices` is 'ab'; give a list of strings of"),
        ("ptb", [PTB[0], {"sentence": None}], "row 1: `sentence` is None; give a string of characters$"),
    ],
)
def test_values_of_another_type_are_refused(parquet: Callable[..., Path], name: str, rows: Rows, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_items(f"{name}:train@{parquet('train.parquet', rows)}")


def test_a_folder_in_our_own_columns(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    rows = [{"id": "a", "question": " Which?", "choices": ["x", "y"], "answer": 1, "note": "kept out"}]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (item,) = read_items(f"owner/my.set/hard:test@{folder}")
    assert item == ChoiceItem(
        id="a", dataset="my_set_hard", split="test", question=" Which?", choices=("x", "y"), answer=1
    )
    for change, words in (
        ({"answer": 2}, r"^mine:test@.*, row 1: `answer` is 2; with 2 choices give 0 to 1$"),
        ({}, "row 1: `id` is 'a', as in row 0; ids must be unique"),
        ({"id": "b", "answer": None}, "row 1: `answer` is None; give a whole number"),
    ):
        (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0] | change]))
        with pytest.raises(ValueError, match=words):
            read_items(f"mine:test@{folder}")


def test_each_text_of_another_set_stands_alone(parquet: Callable[..., Path]) -> None:
    folder = parquet("train.parquet", [{"text": "One."}, {"text": " \n"}, {"text": "Three."}])
    items = read_items(f"mine:train@{folder}")
    assert [(item.id, item.text) for item in items if isinstance(item, TextItem)] == [("0", "One."), ("2", "Three.")]
    folder = parquet("train.parquet", [{"text": " "}], "blank")
    with pytest.raises(ValueError, match=r"^mine:train@.*: the split holds no items; give one that isn't empty$"):
        read_items(f"mine:train@{folder}")


def test_names_what_is_not_there(parquet: Callable[..., Path], tmp_path: Path) -> None:
    folder = parquet("plain_text/train/0000.parquet", PIQA)
    for name, words in (
        ("piqa:tset", r"^piqa:tset@.*: there is no split 'tset'; there are train$"),
        ("hellaswag:train", "the columns are goal, sol1, sol2, label; needed are ctx, endings, label$"),
        ("mine:train", "row 0: the format isn't known: the keys are 'goal', .*; known are `messages`; .*"),
    ):
        with pytest.raises(ValueError, match=words):
            read_items(f"{name}@{folder}")
    with pytest.raises(FileNotFoundError, match=r"^piqa:train@nowhere: folder 'nowhere' doesn't exist$"):
        read_items("piqa:train@nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(OSError, match=r"^piqa:train@.*empty: .*data") as failed:
        read_items(f"piqa:train@{tmp_path / 'empty'}")
    assert "\n" not in str(failed.value)


def test_broken_files_are_one_line(parquet: Callable[..., Path]) -> None:
    folder = parquet("plain_text/train/0000.parquet", PIQA)
    parquet("plain_text/train/0001.parquet", [{"other": 1}])
    with pytest.raises(ValueError, match=r"^piqa:train@.*column names don't match") as failed:
        read_items(f"piqa:train@{folder}")
    assert "\n" not in str(failed.value)
    (folder / "plain_text/train/0000.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"^piqa:train@.*[Pp]arquet"):
        read_items(f"piqa:train@{folder}")


def test_code_that_comes_with_data_is_never_run(parquet: Callable[..., Path], tmp_path: Path) -> None:
    folder = parquet("train.parquet", PIQA)
    (folder / "repository.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ValueError, match="Dataset scripts are no longer supported"):
        read_items(f"piqa:train@{folder}")
    assert not (tmp_path / "ran").exists()


def test_without_the_hub_a_folder_is_asked_for() -> None:
    words = (
        r"^piqa:train: Couldn't reach 'ybisk/piqa' on the Hub .*; without the hub give a folder: `piqa:train@FOLDER`$"
    )
    with pytest.raises(OSError, match=words):
        read_items("piqa:train")


@pytest.mark.parametrize("name", KNOWN_SETS)
def test_what_the_hub_is_asked_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def load_dataset(*arguments: Any, **options: Any) -> Any:
        calls.append((arguments, options))
        return {"train": datasets.Dataset.from_list([{"other": 1}])}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(ValueError, match=r"the columns are other; needed are"):
        read_items(f"{name}:train")
    known = KNOWN_SETS[name]
    assert calls == [((known.hub,), {"name": known.config, "revision": known.revision})]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("piqa:validation", ("piqa", "validation", "ybisk/piqa", None, None)),
        ("arc_easy:test", ("arc_easy", "test", "allenai/ai2_arc", "ARC-Easy", None)),
        ("wikitext2/wikitext-2-v1:test", ("wikitext2", "test", "Salesforce/wikitext", "wikitext-2-v1", None)),
        ("owner/name:train", ("name", "train", "owner/name", None, None)),
        ("owner/name/v1.0:train", ("name_v1_0", "train", "owner/name", "v1.0", None)),
        ("mine:test@C:\\data", ("mine", "test", "", None, "C:\\data")),
        ("piqa:test@/a:b@c", ("piqa", "test", "ybisk/piqa", None, "/a:b@c")),
    ],
)
def test_spellings(text: str, expected: tuple[str | None, ...]) -> None:
    reference = parse_reference(text)
    assert reference is not None
    source = reference.source
    assert (reference.dataset, reference.split, source.hub, source.config, reference.folder) == expected


@pytest.mark.parametrize(
    "path",
    [
        *("piqa.validation.jsonl", "data/piqa.jsonl", "C:piqa.jsonl", "C:/data/piqa.jsonl", "C:\\data\\piqa.jsonl"),
        *("s3://bucket/piqa.jsonl", "../piqa:test", "/data/piqa:test", "a/b/c/d:test", "piqa:test[:10]"),
        *("piqa:", ":test"),
    ],
)
def test_paths_are_no_names(path: str) -> None:
    assert parse_reference(path) is None
    assert hub_source(path) is None


def test_a_word_that_is_neither_file_nor_set() -> None:
    words = r"^'piqq:test' is no file, and 'piqq' no known data set \(piqa, arc_easy, .*, ptb\); give a path"
    with pytest.raises(ValueError, match=words):
        read_items("piqq:test")


def test_a_file_of_that_name_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("piqa:test").write_text("")
    assert hub_source("piqa:test") is None
    with pytest.raises(ValueError, match="data file is 'piqa:test'; its name must end in"):
        read_items("piqa:test")


def test_a_folder_is_not_taken_for_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("owner/name").mkdir(parents=True)
    words = "'owner/name' is also a folder here; to read it, write `owner/name:test@owner/name`$"
    with pytest.raises(ValueError, match=words):
        read_items("owner/name:test")


def test_provenance_says_where_data_is_from() -> None:
    names = ("hub", "config", "revision", "split", "folder")
    known, mine = ("ybisk/piqa", None, "refs/convert/parquet", "test", None), ("", None, None, "test", "folder")
    assert hub_source("piqa:test") == dict(zip(names, known, strict=True))
    assert hub_source("mine:test@folder") == dict(zip(names, mine, strict=True))


def test_a_run_from_a_copy_is_the_same(parquet: Callable[..., Path], make: Callable[..., Any], tmp_path: Path) -> None:
    name = f"arc_easy:test@{parquet('ARC-Easy/test-00000-of-00001.parquet', ARC)}"
    file = tmp_path / "arc_easy.test.jsonl"
    lines = [
        json.dumps({"id": i.id, "question": i.question, "choices": i.choices, "answer": i.answer})
        for i in read_items(name)
        if isinstance(i, ChoiceItem)
    ]
    file.write_text("\n".join(lines))
    by_name, by_file = (make(f"{n}.zarr", data=(d,)).attributes["provenance"] for n, d in enumerate([name, str(file)]))
    assert by_name["data"] == by_file["data"]
    assert by_name["data_sources"][name]["hub"] == "allenai/ai2_arc"
    assert by_file["data_sources"] == {}
    with pytest.raises(ValueError, match="item 'Made_7' of 'arc_easy' stands in both"):
        read_data(CaptureConfig(model="m", adapter=("a",), data=(name, str(file)), out="r"))
