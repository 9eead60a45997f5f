import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorascope.cli.main import main
from lorascope.stores import RunSpec, create_run, open_run, pull
from lorascope.stores.copying.copy_target import copied_spec, read_tables, read_weights

from ..stores.on_disk import lose_rows

KEYS = [
    "run", "state", "format_version", "stream", "states", "fingerprint", "rows", "meshes", "tokens", "samples",
    "choices", "components", "adapters", "neutral", "null_adapters", "sizes", "scores", "provenance", "measured",
]  # fmt: skip


def printed(capsys: pytest.CaptureFixture[str], run: Path, *options: str) -> str:
    assert main(["info", str(run), *options]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def facts(capsys: pytest.CaptureFixture[str], run: Path) -> Any:
    found = json.loads(printed(capsys, run, "--json"))
    assert list(found) == KEYS
    return found


def copied(source: Path, path: Path, **changes: Any) -> Path:
    """The tables of a run with another specification, and rows of ones."""
    run = open_run(source)
    spec: RunSpec = copied_spec(run)
    spec = RunSpec(**{name: getattr(spec, name) for name in spec.__slots__} | changes)
    with create_run(path, spec, tables=read_tables(run), weights=read_weights(run, spec)) as writer:
        for row in range(2):
            tokens = writer.row_tokens(row)
            writer.write_row(
                row,
                {
                    name: np.ones((tokens.stop - tokens.start, *shape[1:]), dtype)
                    for name, (shape, dtype) in writer.row_arrays(row).items()
                },
            )
    return path


def test_tokens_of_a_copy_are_named(capsys: pytest.CaptureFixture[str], many_rows: Path, tmp_path: Path) -> None:
    pull(many_rows, tmp_path / "copy.zarr", tokens="first:8")
    assert "40 (first:8) of 5 samples" in printed(capsys, tmp_path / "copy.zarr")


def test_json_has_everything_under_stable_keys(capsys: pytest.CaptureFixture[str], many_rows: Path) -> None:
    found = facts(capsys, many_rows)
    assert (found["run"], found["state"], found["stream"], found["states"]) == (
        str(many_rows), "finished", "adapted", "all",
    )  # fmt: skip
    assert found["rows"] == {"n": 3, "committed": 3, "lost": 0, "with_states": 3}
    assert found["meshes"] == [{"tensor_parallel": 1, "rows": [[0, 3]]}]
    assert found["tokens"] == {"n": 2500, "committed": 2500, "weighted": False}
    assert (found["samples"], found["choices"]) == (5, 0)
    assert found["components"] == {"n": 4, "kinds": {"down_proj": 2, "up_proj": 2}, "dtypes": {"float32": 4}}
    assert found["adapters"] == {"default": {"rank": [2, 4], "n_touched": 4, "n_factored": 3}}
    assert found["sizes"][-1]["part"] == "whole run"
    on_disk = sum(file.stat().st_size for file in many_rows.rglob("*") if file.is_file())
    assert found["sizes"][-1]["stored_bytes"] == on_disk
    score = found["scores"][0]
    assert (score["dataset"], score["measure"], score["n"]) == ("d/test", "CE", 5)
    assert score["base"] == [None, None]
    assert len(score["adapted"]) == 2
    assert found["provenance"] == {}


def test_an_ablation_is_told(capsys: pytest.CaptureFixture[str], many_rows: Path, tmp_path: Path) -> None:
    run = copied(many_rows, tmp_path / "run.zarr", ablate="layers", ablation_parts=("0", "1"))
    words = " ".join(printed(capsys, run).replace("│", " ").split())
    assert "ablation of 2 layers" in words
    assert "ablation" not in printed(capsys, many_rows)


@pytest.mark.usefixtures("wide")
def test_perplexity_has_an_interval_and_no_change(capsys: pytest.CaptureFixture[str], many_rows: Path) -> None:
    words = " ".join(printed(capsys, many_rows).replace("│", " ").split())
    assert re.search(r"d/test CE \(nat/token\) 5 n/a \S+ ± \S+ n/a ", words)
    assert re.search(r"d/test PPL 5 n/a \S+ \(\S+ to \S+\) ", words)


def test_while_it_is_being_written(
    capsys: pytest.CaptureFixture[str], unfinished: Path, nothing_committed: Path
) -> None:
    assert "2 down_proj, 2 up_proj" in printed(capsys, unfinished)
    found = facts(capsys, unfinished)
    assert (found["state"], found["rows"]["committed"], found["tokens"]["committed"]) == ("unfinished", 2, 1476)
    assert "unfinished: 2 of 3 rows are whole" in printed(capsys, unfinished)
    assert facts(capsys, nothing_committed)["tokens"]["committed"] == 0


def test_lost_rows_are_told(capsys: pytest.CaptureFixture[str], many_rows: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(many_rows, tmp_path / "broken.zarr")
    lose_rows(broken, 1)
    assert facts(capsys, broken)["rows"]["lost"] == 1
    assert "finished, but damaged since: 2 of 3 rows are whole; run `lorascope verify`" in printed(capsys, broken)


def test_torn_run_is_one_line(capsys: pytest.CaptureFixture[str], many_rows: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn.zarr"
    torn.mkdir()
    root = json.loads((many_rows / "zarr.json").read_text())
    del root["attributes"]["static_digest"]
    (torn / "zarr.json").write_text(json.dumps(root))
    out = printed(capsys, torn)
    assert out.count("\n") == 1
    assert "torn: still being set up, or interrupted then; it holds no row" in out
    assert json.loads(printed(capsys, torn, "--json")) == {"run": str(torn), "state": "torn"}


@pytest.mark.parametrize("width", [80, 120])
def test_provenance_and_notes_of_the_preflight(
    capsys: pytest.CaptureFixture[str], many_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    run = shutil.copytree(many_rows, tmp_path / "run.zarr")
    root = json.loads((run / "zarr.json").read_text())
    root["attributes"]["provenance"] = {
        "model": {"class": "LlamaForCausalLM", "sha256": "a" * 64},
        "adapters": {"one": {"sha256": "b" * 64}, "two": {"sha256": "c" * 64}},
        "settings": {"model": "a-model", "adapter": ["one", "two=other"], "data": ["d.jsonl"], "tokens": "last:4"},
        "device": {"type": "cpu", "name": "A processor"},
        "libraries": {"lorascope": "0.1.0", "zarr": "3.1.6"},
        "started": "2026-01-01T00:00:00Z",
        "preflight": [
            {"kind": "zero", "message": "lora_B is all zero", "places": ["a", "b", "c", "d"]},
            {"kind": "residual", "message": "the base was changed [bold]", "places": []},
        ],
        "copied": [{"how": "pull", "source": "s3://bucket/run.zarr", "time": "2026-01-02T00:00:00Z"}],
        "loss": float("nan"),
    }
    (run / "zarr.json").write_text(json.dumps(root))
    out = " ".join(printed(capsys, run, "--full").split())
    for words in (
        f"a-model (sha256 {'a' * 16})",
        f"one, two=other (sha256 {'b' * 16}, {'c' * 16})",
        "cpu, A processor",
        "lorascope 0.1.0, zarr 3.1.6",
        "from s3://bucket/run.zarr at 2026-01-02T00:00:00Z",
        "a, b, c and 1 more",
        "[bold]",
        "2500 (last:4) of 5 samples in 3 rows",
    ):
        assert words in out, words
    assert facts(capsys, run)["provenance"]["loss"] is None


@pytest.mark.parametrize("states", ["none", "sample"])
def test_runs_that_keep_less(capsys: pytest.CaptureFixture[str], many_rows: Path, tmp_path: Path, states: str) -> None:
    rows = (True, False, True) if states == "sample" else ()
    run = copied(many_rows, tmp_path / "run.zarr", states=states, state_rows=rows)
    found = facts(capsys, run)
    assert (found["states"], found["rows"]["with_states"]) == (states, 1 if rows else 0)
    out = printed(capsys, run)
    assert ("adapted, sample, in 1 of 2 rows" in out) == (states == "sample")
    assert ("no factors kept" in out) == (states == "none")
