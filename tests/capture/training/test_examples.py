"""The first example of docs/training.md, as it is printed, with the real library; and what a logger gets of it."""

import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest
from transformers import TrainerCallback

from ...pages import ROOT, blocks, run_python
from ...tiny import save_model

EXAMPLE = next(block for block in blocks((ROOT / "docs/training.md").read_text()) if "callbacks=" in block.text)
"""With `transformers.Trainer`; of TRL's, test_chats.py looks at the log."""


class Logger(TrainerCallback):
    """Stands where those of `report_to` stand: before the callbacks that a Trainer is given."""

    logs: ClassVar[list[dict[str, Any]]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
        self.logs.append({**logs, "step": state.global_step})


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    from transformers import trainer

    monkeypatch.setattr(Logger, "logs", [])
    monkeypatch.setattr(trainer, "DEFAULT_CALLBACKS", [*trainer.DEFAULT_CALLBACKS, Logger])
    return Logger.logs


# Torch's, on a machine without a GPU.
@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator:UserWarning")
def test_it_runs_as_printed_and_its_logger_gets_miub(
    tiny_model: Any,
    tiny_tokenizer: Any,
    data: Path,
    logged: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(data, "held-out.jsonl")
    save_model(Path("my-model"), tiny_model, tiny_tokenizer)
    scope: dict[str, Any] = {}
    run_python(EXAMPLE.text, scope)
    measured = [entry for entry in scope["trainer"].state.log_history if "miub" in entry]
    assert [entry["step"] for entry in measured] == [0, 2, 4]
    assert [entry for entry in logged if "miub" in entry] == measured
    assert measured[-1]["miub"] > measured[0]["miub"] == 0
