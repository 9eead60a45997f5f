"""`lorascope adapter` with `--merged` and `--check-merge`."""

import json
from pathlib import Path

import pytest

from lorascope.cli.main import main

pytest.importorskip("torch")

from ..capture.test_merged import FIRST, Case, bfloat16, left_layer, merge_by_hand

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("wide"), pytest.mark.filterwarnings("ignore::UserWarning")]


def run(capsys: pytest.CaptureFixture[str], case: Case, *words: str) -> tuple[int, str]:
    code = main(["adapter", str(case.adapter), "--model", str(case.base), *words])
    out, err = capsys.readouterr()
    assert "error" not in err
    return code, out


def test_a_sound_merge(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    case = Case(tmp_path)
    bfloat16(case)
    code, out = run(capsys, case, "--merged", str(case.merged))
    assert code == 0
    assert "It is the adapter (layers: 12 adapter); 12 bit for bit as PEFT merges here; in bfloat16, " in out
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in out.splitlines() if line[:1] == "│"]
    assert [row[:3] for row in rows if row[0] == "q_proj"] == [["q_proj", "2", "2"]]
    assert FIRST not in out
    code, out = run(capsys, case, "--merged", str(case.merged), "--full")
    assert (code, FIRST in out) == (0, True)


def test_a_spoilt_merge(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    case = Case(tmp_path)
    left_layer(case)
    case.change(lambda tensors: tensors["model.norm.weight"].mul_(1.01))
    code, out = run(capsys, case, "--merged", str(case.merged))
    assert code == 1
    (row,) = (line for line in out.splitlines() if line.startswith(f"│ {FIRST} "))
    assert [cell.strip() for cell in row.split("│")][2] == "base"
    assert out.endswith(
        "It isn't the adapter (layers: 11 adapter, 1 base); other tensors that aren't the base's: 1, such as "
        "model.norm.weight\n"
    )
    code, out = run(capsys, case, "--merged", str(case.merged), "--json")
    answer = json.loads(out)
    assert (code, answer["attributes"]["verdict"]) == (1, "not the adapter")
    assert [row["verdict"] for row in answer["rows"] if row["component"] == FIRST] == ["base"]
    assert [row["other"] for row in answer["others"]] == ["model.norm.weight"]
    merge_by_hand(case, lambda path, layer, change: 2 * change)
    assert run(capsys, case, "--merged", str(case.merged))[1].endswith(
        "It isn't the adapter (layers: 12 scaled); scaled by 2 in the median\n"
    )


def test_a_foretold_merge(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    case = Case(tmp_path, size=1e-4)
    code, out = run(capsys, case, "--check-merge", "float32")
    assert code == 0
    assert (
        "It would be the adapter (layers: 12 adapter); in float32, 100 % of the change arrives, with rounding noise of "
        in out
    )
    code, out = run(capsys, case, "--check-merge", "int8")
    assert code == 1
    assert "but rounding takes most of it (layers: 12 rounded); in int8, -29.8 % of the change arrives, " in out


def test_what_cannot_be_compared(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    case = Case(tmp_path, trainable_token_indices={"embed_tokens": [3, 5]})
    case.save(case.attached().merge_and_unload())
    code, out = run(capsys, case, "--merged", str(case.merged))
    assert code == 3
    assert "trained tokens aren't replayed" in out


ALONE = (
    "`--merged FOLDER` or `--check-merge TYPE` takes one adapter, `--model` with its base, and otherwise only `--full` "
    "and `--json`"
)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--merged", "{case.merged}"], ALONE),
        (["--model", "{case.base}", "--merged", "x", "--check-merge", "float32"], ALONE),
        (["--model", "{case.base}", "--check-merge", "float32", "--truncate", "99%"], ALONE),
        (["--model", "{case.base}", "--merged", "nowhere"], "`merged` is 'nowhere'; give a folder with "),
        (["--model", "nowhere/", "--check-merge", "float32"], "`model` is 'nowhere/', which doesn't exist; "),
    ],
)
def test_mistakes(capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str], message: str) -> None:
    case = Case(tmp_path)
    assert main(["adapter", str(case.adapter), *(word.format(case=case) for word in words)]) == 2
    assert f"lorascope: error: {message}" in capsys.readouterr().err
