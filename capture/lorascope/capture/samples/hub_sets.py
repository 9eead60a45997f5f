"""The seven data sets known by name: where they lie on the hub, and how their rows become items."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["KNOWN_SETS", "HubSet"]

Row = Mapping[str, Any]

CONVERTED = "refs/convert/parquet"
"""The hub's own conversion of a set that its authors published as a script, which `datasets` no longer runs."""
Question = tuple[Any, Any, int | None]
"""Question, choices and index of the right one, as they stand in a row; no index where the split doesn't tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSet:
    """A data set on the hub."""

    hub: str
    """Its repository."""
    config: str | None = None
    """Its configuration; None for the only one."""
    revision: str | None = None
    """Branch or commit; None for the newest."""
    folder: str | None = None
    """Folder of the files in the repository; None if it has the configuration's name."""
    columns: tuple[str, ...]
    """The columns that are read."""
    question: Callable[[Row], Question] | None = None
    """Makes a question of a row, in a multiple-choice set; a row of another form raises TypeError or LookupError."""
    text: Callable[[Iterable[str]], str] | None = None
    """Makes one text of the texts of all rows, in a set for language modelling."""


def _arc(row: Row) -> Question:
    # A few items number their choices 1 to 4 where others have letters.
    labels, texts = row["choices"]["label"], row["choices"]["text"]
    if len({*labels}) != len(labels) or len(labels) != len(texts):
        raise TypeError("each text needs a label of its own")
    answer = labels.index(row["answerKey"]) if row["answerKey"] in labels else None
    return row["question"], texts, answer


def _index(label: Any, n_choices: int, *, first: int = 0) -> int | None:
    """Index of the choice with this number, which may be a text; None for whatever is no number of a choice."""
    number = int(label) if str(label).isdecimal() else -1
    return number - first if first <= number < first + n_choices else None


_ARC_COLUMNS = ("id", "question", "choices", "answerKey")

KNOWN_SETS = {
    "piqa": HubSet(
        hub="ybisk/piqa",
        revision=CONVERTED,
        folder="plain_text",
        columns=("goal", "sol1", "sol2", "label"),
        question=lambda row: (row["goal"], [row["sol1"], row["sol2"]], _index(row["label"], 2)),
    ),
    "arc_easy": HubSet(hub="allenai/ai2_arc", config="ARC-Easy", columns=_ARC_COLUMNS, question=_arc),
    "arc_challenge": HubSet(hub="allenai/ai2_arc", config="ARC-Challenge", columns=_ARC_COLUMNS, question=_arc),
    "winogrande": HubSet(
        hub="allenai/winogrande",
        config="winogrande_xl",
        columns=("sentence", "option1", "option2", "answer"),
        question=lambda row: (row["sentence"], [row["option1"], row["option2"]], _index(row["answer"], 2, first=1)),
    ),
    "hellaswag": HubSet(
        hub="Rowan/hellaswag",
        folder="data",
        columns=("ctx", "endings", "label"),
        question=lambda row: (row["ctx"], row["endings"], _index(row["label"], len(row["endings"]))),
    ),
    "wikitext2": HubSet(
        hub="Salesforce/wikitext",
        config="wikitext-2-raw-v1",
        columns=("text",),
        text=lambda rows: "".join(row or " \n" for row in rows),  # the hub keeps blank lines (" \n") as ""
    ),
    "ptb": HubSet(
        hub="ptb-text-only/ptb_text_only",
        revision=CONVERTED,
        folder="penn_treebank",
        columns=("sentence",),
        text=lambda rows: "".join(f" {row} \n" for row in rows),  # the hub keeps no spaces around a line
    ),
}
"""Name in lorascope -> the set."""
