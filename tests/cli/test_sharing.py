"""`--share` through the command line: an adapter is trained, measured and computed again on the same shared layers."""

import importlib.util
import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.torch
if importlib.util.find_spec("torch") is None:
    pytest.skip("needs lorascope[capture]", allow_module_level=True)

from lorascope.cli import screen  # noqa: E402
from lorascope.cli.main import main  # noqa: E402

from .called import make_inputs  # noqa: E402


@pytest.mark.filterwarnings("default")  # other people's, at load time
def test_from_training_to_a_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(screen.console, "width", 200)
    make_inputs(tmp_path, 6, num_hidden_layers=3)
    share = ["--share", "2", "--shared-layers", "2", "--share-from", "mean"]
    model = ["--model", "model", "--data", "sums.train.jsonl"]
    fine = ["--rank", "2", "--max-steps", "2", "--batch-size", "3", "--learning-rate", "0.01"]
    adapter = [*model, "--adapter", "adapter"]
    steps = [
        (["finetune", *model, "--out", "adapter", *fine, *share], 0, "adapter: adapter after"),
        (["capture", *adapter, "--out", "run.zarr", *share], 0, "at 21 components"),
        (["verify", "run.zarr", "--reforward", "1"], 0, "equal bit for bit"),
        (["capture", *adapter, "--out", "other.zarr"], 2, "in groups of 2, but in this one no layers share weights"),
        (
            ["plan", *adapter, "--out", "other.zarr", "--no-probe"],
            1,
            "NO adapter 'default': it was trained on a model",
        ),
        (["finetune", *model, "--out", "b", *share[:2]], 2, "`shared_layers` is 16, but the model, a Llama"),
    ]
    for words, code, said in steps:
        found = main(words)
        out, err = capsys.readouterr()
        shown = " ".join((out + err).split())
        assert found == code, (words, shown)
        assert said in shown, (words, shown)
        if code == 2:
            assert len(err.removeprefix("loading model\n").strip().splitlines()) == 1, err
    assert {"share": 2, "shared_layers": 2}.items() <= json.loads((tmp_path / "adapter/finetune.json").read_text())[
        "model"
    ].items()
