"""What a command says is there after it was stopped, on real runs and folders in each of their states."""

import json
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from lorascope.analyze import miub
from lorascope.cli.main import main
from lorascope.cli.screen import describe_components, describe_rows, describe_training, report_when_stopped
from lorascope.stores import Run, open_run

from ..stores.on_disk import unfinish


def torn(run: Path) -> None:
    root = json.loads((run / "zarr.json").read_text())
    del root["attributes"]["static_digest"]
    (run / "zarr.json").write_text(json.dumps(root))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (shutil.rmtree, "stopped before anything was written to `{run}`; the same command begins again"),
        (torn, "stopped while `{run}` was being set up; it holds no row, and the same command begins again"),
        (lambda run: unfinish(run, 1), "stopped after 2 of 3 rows of `{run}`; the same command goes on"),
        (lambda run: None, "stopped when it was finished, with 3 of 3 rows of `{run}`"),
    ],
)
def test_rows_that_are_there_are_said(
    many_rows: Path, tmp_path: Path, change: Callable[[Path], object], said: str
) -> None:
    run = shutil.copytree(many_rows, tmp_path / "run.zarr")
    change(run)
    assert describe_rows(str(run)) == said.format(run=run)


def test_checkpoints_that_are_there_are_said(tmp_path: Path) -> None:
    out = tmp_path / "adapter"
    assert describe_training(out).startswith("stopped before the first checkpoint; nothing of the training stays")
    for name in ("checkpoint-9/whole.json", "checkpoint-40/whole.json", "checkpoint-80/half.json"):
        (tmp_path / f".adapter.training/{name}").parent.mkdir(parents=True)
        (tmp_path / f".adapter.training/{name}").touch()
    assert describe_training(out).startswith("stopped; the checkpoint after step 40 stays, and the same command")
    out.mkdir()
    assert describe_training(out) == f"stopped, but the adapter in `{out}` is finished"


def test_an_error_that_says_something_keeps_its_words() -> None:
    with pytest.raises(KeyboardInterrupt, match="of its own"), report_when_stopped(lambda: "else"):
        raise KeyboardInterrupt("of its own")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_copy_that_is_stopped_says_how_many_rows_there_are(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    many_rows: Path,
    tmp_path: Path,
    stop: signal.Signals,
) -> None:
    from lorascope.stores.writing.write import RunWriter

    write_row, out = RunWriter.write_row, tmp_path / "copy.zarr"

    def write_and_stop(self: RunWriter, row: int, blocks: object) -> object:
        written = write_row(self, row, blocks)
        if row == 1:
            signal.raise_signal(stop)
        return written

    monkeypatch.setattr(RunWriter, "write_row", write_and_stop)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        assert main(["pull", str(many_rows), str(out)]) == 128 + stop
    finally:
        signal.signal(signal.SIGINT, before)
    said = f"stopped after 2 of 3 rows of `{out}`; the same command goes on\n"
    assert capsys.readouterr().err == f"lorascope: error: {said}"
    monkeypatch.undo()
    assert main(["pull", str(many_rows), str(out)]) == 0
    assert "already complete" not in capsys.readouterr().out
    assert main(["pull", str(many_rows), str(out)]) == 0
    again = " ".join(capsys.readouterr().out.split())
    assert again.startswith("already complete: 4 of 4 components, 5 of 5 samples, 2500 of 2500 tokens in ")
    assert "B in" not in again


def test_a_result_that_is_stopped_says_how_many_components_there_are(
    monkeypatch: pytest.MonkeyPatch, many_rows: Path, tmp_path: Path
) -> None:
    target = tmp_path / "result.zarr"
    assert "before anything was written" in describe_components(target)
    monkeypatch.setattr("lorascope.analyze.measuring.run.BATCH_BYTES", 1)
    monkeypatch.setattr("lorascope.analyze.measuring.run.BATCH_TASKS", 1)

    def stop(run: Run) -> None:
        def tell(done: int, total: int, part: str = "") -> None:
            if 2 * done > total + 2:
                raise KeyboardInterrupt

        miub(run, out=target, n_workers=1, progress=tell)

    said = r"stopped after [1-3] of 4 components of `.*`; the same command goes on"
    saying = report_when_stopped(partial(describe_components, target))
    with pytest.raises(KeyboardInterrupt, match=said), saying:
        stop(open_run(many_rows))
    miub(open_run(many_rows), out=target)
    assert describe_components(target) == f"stopped, but `{target}` is finished"
