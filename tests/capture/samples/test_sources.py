"""Data as people have it: each format from each place comes to the same items, and mistakes are one line."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import DataLoader

from lorascope.capture.samples.encode import encode_items
from lorascope.capture.samples.items import ChatItem, Item, TokensItem
from lorascope.capture.samples.sources import read_items
from lorascope.stores.format.tables import ROLES

ASKED = {"role": "user", "content": "2 + 2?"}
SAID = {"role": "assistant", "content": "4"}
FORMATS: dict[str, list[dict[str, Any]]] = {
    "messages": [
        {"messages": [ASKED, SAID]},
        {"messages": [{"role": "system", "content": ""}, ASKED, SAID, {"role": "user", "content": "Why?"}, SAID]},
    ],
    "messages as a prompt": [
        {"prompt": [ASKED], "completion": [SAID]},
        {"prompt": [SAID, ASKED], "completion": [SAID]},
    ],
    "texts as a prompt": [{"prompt": "2 + 2 =", "completion": " 4"}, {"prompt": "1 + 1 =", "completion": " 2"}],
    "text": [{"text": "One.\n"}, {"text": "Two."}],
    "choices": [{"question": "2 + 2?", "choices": ["3", "4"], "answer": 1}] * 2,
    "tokens": [{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}, {"input_ids": [5, 6], "labels": [-100, 6]}],
}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def contents(items: list[Item]) -> list[Any]:
    """Items without the names that come from where they were."""
    return [type(items[0])(**{**as_fields(one), "id": "x", "dataset": "d", "split": ""}) for one in items]


def as_fields(item: Item) -> dict[str, Any]:
    return {name: getattr(item, name) for name in item.__dataclass_fields__}


@pytest.mark.parametrize("rows", FORMATS.values(), ids=FORMATS)
def test_each_format_from_each_place_is_the_same(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    lines = read_items(write(tmp_path / "my.train.jsonl", rows))
    table = read_items(write(tmp_path / "my.train.parquet", rows))
    listed = read_items(rows, name="my.train")
    dataset = datasets.Dataset.from_list(rows, split="train")
    held, streamed = read_items(dataset), read_items(dataset.to_iterable_dataset())
    generated = read_items(row for row in rows)
    (tmp_path / "hub").mkdir()
    write(tmp_path / "hub/train.parquet", rows)
    hub = read_items(f"my:train@{tmp_path / 'hub'}")
    for other in (table, listed, held, streamed, generated, hub):
        assert contents(other) == contents(lines)
    assert [item.id for item in lines] == ["my.train.jsonl:1", "my.train.jsonl:2"]
    assert [item.id for item in table] == ["my.train.parquet:0", "my.train.parquet:1"]
    assert [item.id for item in listed] == ["my:0", "my:1"]
    assert [item.id for item in hub] == ["0", "1"]
    assert {(item.dataset, item.split) for item in (*lines, *table, *listed, *hub)} == {("my", "train")}
    assert {(item.dataset, item.split) for item in held} == {("data", "train")}


def test_ids_of_ones_own_are_kept_whether_texts_or_numbers(tmp_path: Path) -> None:
    rows = [{"id": 7, "text": "One."}, {"id": "b", "text": "Two."}, {"id": None, "text": "Three."}, {"text": " \n"}]
    path = write(tmp_path / "a.jsonl", rows)
    assert [item.id for item in read_items(path)] == ["7", "b", "a.jsonl:3"]
    assert [(item.dataset, item.split) for item in read_items(path, name="b.test")] == [("b", "test")] * 3


def test_messages_are_taken_as_they_are_used(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "2 "}, {"type": "text", "text": "+ 2?"}]
    row = {
        "messages": [{"role": "user", "content": parts, "name": None}, {**SAID, "tool_calls": None}],
        "tools": json.dumps([{"name": "add"}]),
        "chat_template_kwargs": {"enable_thinking": False},
        "source": "made",
    }
    (item,) = read_items([row])
    assert isinstance(item, ChatItem)
    assert item.messages == ({"role": "user", "content": "2 + 2?"}, SAID)
    assert item.tools == ({"name": "add"},)
    assert item.template_options == {"enable_thinking": False}
    # Of two formats in one row, the one nearest to what a model reads; a `prompt` alone is none.
    (both,) = read_items([{**row, "text": "2 + 2?4", "prompt": "2 + 2?"}])
    assert isinstance(both, ChatItem)
    # A table gives every row every column.
    rows = [{"text": None, "messages": [ASKED, SAID]}, {"text": None, "messages": [ASKED, SAID]}]
    assert len(read_items(write(tmp_path / "a.parquet", rows))) == 2


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("as_numpy", [False, True])
def test_a_dataloader_gives_its_rows_without_padding(side: str, as_numpy: bool) -> None:
    rows = [[5, 6, 7, 8], [9, 10]]

    def collate(batch: list[list[int]]) -> dict[str, Any]:
        width = max(map(len, batch))
        spaces = [[0] * (width - len(row)) for row in batch]
        ids = [space + row if side == "left" else row + space for row, space in zip(batch, spaces, strict=True)]
        padded = {
            "input_ids": ids,
            "attention_mask": [[int(one > 0) for one in row] for row in ids],
            "labels": [[one if one > 5 else -100 for one in row] for row in ids],
        }
        return {name: (np.array if as_numpy else torch.tensor)(rows) for name, rows in padded.items()}

    items = read_items(DataLoader(rows, batch_size=2, collate_fn=collate), name="mine.train")  # type: ignore[arg-type]
    assert items == [
        TokensItem(
            id="mine:0", dataset="mine", split="train", token_ids=(5, 6, 7, 8), targets=(False, True, True, True)
        ),
        TokensItem(id="mine:1", dataset="mine", split="train", token_ids=(9, 10), targets=(True, True)),
    ]


def test_given_tokens_have_roles_by_their_labels(tiny_tokenizer: Any) -> None:
    rows = [
        {"input_ids": [5, 6, 7, 8], "labels": [-100, -100, 7, 8]},
        {"input_ids": [5, 6, 7, 8], "labels": [-100, 6, 7, 8]},
        {"input_ids": [5, 6, 7, 8]},
        {"input_ids": [5, 6, 7, 8], "labels": [5, 6, 7, 8], "completion_mask": [0, 0, 0, 1]},
        {"input_ids": [5, 6, 7, 8], "assistant_masks": [0, 1, 0, 1], "labels": None},
    ]
    samples = encode_items(read_items(rows), tiny_tokenizer, max_length=4, window_tokens=4)
    assert [[ROLES[role][0] for role in sample.roles] for sample in samples] == [
        ["p", "p", "a", "a"],
        ["t", "t", "t", "t"],
        ["t", "t", "t", "t"],
        ["p", "p", "p", "a"],
        ["p", "a", "p", "a"],
    ]
    assert [sample.is_target.astype(int).tolist() for sample in samples[1:]] == [
        [0, 1, 1, 1],
        [0, 1, 1, 1],
        [0, 0, 0, 1],
        [0, 1, 0, 1],
    ]
    assert [sample.n_prefix for sample in samples] == [2, 4, 4, 3, 3]
    assert {sample.prompt for sample in samples} == {"tokens"}
    for ids, words in (
        (
            [5, 100_000],
            r"sample 'data:0': `input_ids` holds 100000, but the tokenizer has the ids 0 to 2\d\d; give ids",
        ),
        ([5, 2**70], "`input_ids` holds 1180591620717411303424, but the tokenizer has the ids 0 to"),
        ([5] * 5, "sample 'data:0' has 5 tokens; the context has 4"),
        (
            [5, 6, 2, 2],
            "`input_ids` begins or ends with tokens 2, with which the tokenizer pads; give `attention_mask`",
        ),
        (
            [2, 2, 5, 6],
            "`input_ids` begins or ends with tokens 2, with which the tokenizer pads; give `attention_mask`",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            encode_items(read_items([{"input_ids": ids}]), tiny_tokenizer, max_length=4, window_tokens=4)


@pytest.mark.parametrize(
    ("prompt", "completion", "context", "predicted"),
    [
        ("2 + 2 =", " 4.", "<s>2 + 2 =", " 4.</s>"),
        ("2 + 2 =", " 4.</s>", "<s>2 + 2 =", " 4.</s>"),
        ("Name th", "e answer", "<s>Name", " the answer</s>"),  # ` the` is one token, which is the completion's
        ("Name ", "the", "<s>Name", " the</s>"),
    ],
)
def test_a_completion_begins_where_the_tokens_differ(
    prompt: str, completion: str, context: str, predicted: str, tiny_tokenizer: Any
) -> None:
    items = read_items([{"prompt": prompt, "completion": completion}])
    (sample,) = encode_items(items, tiny_tokenizer, max_length=64, window_tokens=4)
    assert [tiny_tokenizer.decode(sample.token_ids[mask]) for mask in (~sample.is_target, sample.is_target)] == [
        context,
        predicted,
    ]
    # As TRL does it: the common start of both, the rest is the completion.
    whole = tiny_tokenizer(prompt + completion.removesuffix("</s>") + "</s>")["input_ids"]
    alone = tiny_tokenizer(prompt)["input_ids"]
    common = next((n for n, (a, b) in enumerate(zip(whole, alone, strict=False)) if a != b), len(alone))
    assert sample.token_ids.tolist() == whole
    assert sample.n_context == common


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            [{"instruction": "a", "output": "b"}],
            "the format isn't known: the keys are 'instruction', 'output'; known are",
        ),
        ([{"id": "a", "massages": [ASKED, SAID]}], r"with `labels`; did you mean 'messages'\?"),
        (
            [{"prompt": "a"}],
            "the format isn't known: the keys are 'prompt'; known are `messages`; `prompt` and `compl",
        ),
        (
            [{"text": "a"}, {"messages": [ASKED, SAID]}],
            "it holds `messages`, where (item 0|line 1) holds `text`; give each format",
        ),
        (
            [{"messages": [{"content": "a"}]}],
            r"`messages\[0\]` is {'content': 'a'}; give an object with `role` and `conte",
        ),
        (
            [{"messages": [{"role": "developer", "content": "a"}, SAID]}],
            r"`messages\[0\]` has the role 'developer'; allowed are system, user, assistant, tool: write 'system'",
        ),
        (
            [{"messages": [ASKED, {"role": "bot", "content": "a"}]}],
            r"`messages\[1\]` has the role 'bot'; allowed are sys",
        ),
        ([{"messages": [ASKED, {**SAID, "content": None}]}], r"`messages\[1\].content` is None; give a string"),
        ([{"messages": [ASKED, {**SAID, "content": " "}]}], r"`messages\[1\].content` is ' '; give a text"),
        (
            [{"messages": [{"role": "user", "content": [{"type": "image"}]}, SAID]}],
            r"`messages\[0\].content` is \[{'type': 'image'}\]; give a text, or parts of the type 'text'",
        ),
        ([{"messages": []}], r"`messages` is \[\]; give a list of messages with `role` and `content`"),
        ([{"messages": "Hello"}], "`messages` is 'Hello'; give a list of messages"),
        (
            [{"messages": [ASKED]}],
            "`messages` holds no turn of the assistant's; give a chat in which it says something",
        ),
        (
            [{"prompt": [ASKED, SAID], "completion": [SAID]}],
            "`prompt` ends with the assistant's turn; end it with what",
        ),
        ([{"prompt": [ASKED], "completion": [ASKED]}], "`completion` holds no turn of the assistant's; give a chat"),
        (
            [{"prompt": [ASKED], "completion": "4"}],
            "and `completion` '4'; give two strings of characters, or two lists",
        ),
        ([{"prompt": "2", "completion": " "}], "`completion` is ' '; give a text that isn't empty"),
        ([{"messages": [ASKED, SAID], "tools": 3}], "`tools` is 3, `chat_template_kwargs` {}; give a list of tools"),
        (
            [{"id": "a", "text": "b"}, {"id": "a", "text": "c"}],
            "`id` is 'a', as in (item 0|line 1); ids must be unique",
        ),
        ([{"text": 3}], "`text` is 3; give a string of characters"),
        ([{"question": "a", "answer": 1}], "`choices` is missing; give a list of strings"),
        ([{"input_ids": [1, 2.5]}], r"`input_ids` is \[1, 2.5\]; give a list of whole numbers"),
        ([{"input_ids": [1, 2], "labels": [1]}], "`labels` has 1 entries where `input_ids` has 2; give one a token"),
        (
            [{"input_ids": [1, 2], "labels": [2, -100]}],
            r"`labels\[0\]` is 2 where `input_ids\[0\]` is 1; give each token",
        ),
        ([{"input_ids": [1, 2], "labels": [1, -100]}], "none of the 2 tokens is to be predicted: give at least two"),
        ([{"input_ids": [1, 2, 3], "attention_mask": [1, 0, 1]}], "`attention_mask` has gaps; give sequences"),
        ([{"input_ids": [1, 2, 3, 4], "attention_mask": [1, 1, 2, 2]}], "`attention_mask` is .*; give a list of zeros"),
        ([{"input_ids": [1, 2, 3, 4], "position_ids": [0, 1, 0, 1]}], "it packs several sequences into one, by its"),
        ([{"input_ids": [1, 2, 3, 4], "seq_lengths": [2, 2]}], "it packs several sequences into one, by its"),
        (
            [{"messages": [ASKED, SAID], "tools": "add"}],
            r"`tools` is a text that isn't JSON \(.*\); give a list of tools",
        ),
        ([{"input_ids": []}], "none of the 0 tokens is to be predicted"),
        ([[1, 2]], r"it holds \[1, 2\]; give an object with `messages`; "),
    ],
)
def test_mistakes_are_one_line_that_says_where(rows: list[Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for source, place in ((rows, f"mine, item {len(rows) - 1}: "), (path, f"{path}, line {len(rows)}: ")):
        with pytest.raises(ValueError, match=words) as caught:
            read_items(source, name="mine")
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(place)


def test_what_is_no_parquet_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    for content in (b"", b"PAR1 and no more", b"{}" * 999):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a.parquet: it can't be read as Parquet: \w") as caught:
            read_items(path)
        assert "\n" not in str(caught.value)
    write(path, [{"instruction": "a"}])
    with pytest.raises(ValueError, match=r"the columns are 'instruction'; known are `messages`"):
        read_items(path)
    whole = write(tmp_path / "b.parquet", [{"text": "word " * 2000}] * 50).read_bytes()
    path.write_bytes(whole[:200] + bytes(100) + whole[300:])
    with pytest.raises(ValueError, match="it can't be read as Parquet"):
        read_items(path)


def test_a_parquet_file_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorascope.capture.samples.sources.MAX_FILE_BYTES", 2**20)
    path = write(tmp_path / "a.parquet", [{"text": "x" * 1000}] * 4000)
    assert path.stat().st_size < 2**18
    with pytest.raises(ValueError, match=r"its rows take more than 1.* MB?.*; give it in parts"):
        read_items(path)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"train": [], "test": []}, "the data is a dict with the keys 'train', 'test'; give a path, a list of dict"),
        (
            datasets.DatasetDict({"train": datasets.Dataset.from_list([])}),
            "is a DatasetDict with the keys 'train'; give",
        ),
        ([], "data: the data holds no items; give one that isn't empty"),
        (["a", "b"], "the data gives the text 'a'; give one dictionary per item, or per batch"),
        (7, "the data is a int; give a path, a list of dictionaries, one split of a data set, or a DataLoader"),
        (
            [{"input_ids": [[1, 2], [3, 4]], "labels": [[1, 2]]}],
            "a batch of 2 `input_ids` has .* as `labels`; give one",
        ),
    ],
)
def test_what_is_no_data_is_said(source: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_items(source)


def test_datasets_and_torch_are_imported_by_who_has_them_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", FORMATS["messages"])
    code = (
        "import sys; from lorascope.capture import read_items; "
        f"assert len(read_items({str(path)!r})) == len(read_items([{{'text': 'a'}}] * 2)) == 2; "
        "print(*({'datasets', 'torch', 'pyarrow', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
