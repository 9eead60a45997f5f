"""The examples of docs/training.md, as they are printed, with the real libraries; and what a logger gets of one."""

import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest
from transformers import TrainerCallback

from lorascope.capture import load_model
from lorascope.cli.main import main
from lorascope.study.demo_inputs import demo_model

from ...pages import ROOT, blocks, job_commands, run_python
from ...tiny import save_model

PAGE = blocks((ROOT / "docs/training.md").read_text())
MERGE = next(block for block in PAGE if "merge_and_unload" in block.text)
JOB = next(block for block in PAGE if block.language == "yaml")
EXAMPLE, OF_TRL = (block for block in PAGE if "callbacks=" in block.text)
"""With `transformers.Trainer`, and with TRL's SFTTrainer, of whose log test_chats.py looks at more."""


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


@pytest.mark.slow
# TRL 1.16 gives transformers 5.24 a setting under its old name; the other is torch's, on a machine without a GPU.
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator:UserWarning")
# As it saves a checkpoint, PEFT looks for a config file next to the `.gguf`, and then at the hub.
@pytest.mark.filterwarnings("ignore:Unable to fetch remote file:UserWarning")
@pytest.mark.filterwarnings("ignore:Could not find a config file in:UserWarning")
@pytest.mark.usefixtures("smollm2")  # skips where its weights aren't installed
def test_trls_runs_as_printed_on_the_demos_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its chat template is none of those that TRL knows, and doesn't mark what the assistant says."""
    monkeypatch.chdir(tmp_path)
    Path("runs/demo").mkdir(parents=True)
    Path("runs/demo/model.gguf").symlink_to(demo_model())
    scope: dict[str, Any] = {}
    run_python(OF_TRL.text, scope)
    trainer, tokenizer, run = scope["trainer"], scope["tokenizer"], scope["run"]
    values = [entry["miub"] for entry in trainer.state.log_history if "miub" in entry]
    assert values[-1] > values[0] == 0
    labels = trainer.train_dataset[0]["labels"]  # the answer and the end of its turn alone
    assert tokenizer.decode([label for label in labels if label != -100]).strip() == "Yes, it is.<|im_end|>"
    assert run.finished
    assert run.samples.sizes["sample"] == 3
    # The merge, by the steps of the page's job; and a folder in which the adapter isn't merged.
    run_python(MERGE.text, scope)
    steps = job_commands(JOB)
    assert [main(words[1:]) for words in steps] == [0, 0]
    load_model("runs/demo/model.gguf")[0].save_pretrained("trained/merged")
    assert [main(words[1:]) for words in steps] == [1, 1]
