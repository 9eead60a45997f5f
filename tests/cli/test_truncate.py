"""`lorascope adapter --truncate`."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from lorascope.analyze.adapters.factors import hash_adapter
from lorascope.cli.main import main

from ..stored import store_gradients
from ..tiny import byte_tokenizer, llama, save_model

pytestmark = pytest.mark.usefixtures("wide")
KINDS = {"q_proj": 32, "up_proj": 64}


def write(folder: Path, *, n_layers: int = 2) -> Path:
    """An adapter of rank 4 at two modules of each layer."""
    rng = np.random.default_rng(0)
    tensors: dict[str, Any] = {}
    for layer in range(n_layers):
        for kind, n_out in KINDS.items():
            A, B = (np.linalg.qr(rng.normal(size=(n, 4)))[0] for n in (32, n_out))
            path = f"base_model.model.model.layers.{layer}.{'self_attn' if kind == 'q_proj' else 'mlp'}.{kind}"
            tensors[f"{path}.lora_A.weight"] = np.ascontiguousarray(A.T, np.float32)
            tensors[f"{path}.lora_B.weight"] = np.ascontiguousarray(0.3 * B, np.float32)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": list(KINDS), "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def write_run(path: Path, lora: Path, *, n_layers: int = 2) -> Path:
    """A run of that adapter; up_proj needs all directions at 99 %, and q_proj one, whose others fall by 100 each."""
    kinds = ("self_attn.q_proj", "mlp.up_proj")
    names = [f"model.layers.{layer}.{kind}" for layer in range(n_layers) for kind in kinds]
    gradients = {name: np.ones((3, 4)) * (0.1 ** np.arange(4) if "q_proj" in name else 1) for name in names}
    return store_gradients(path, gradients, provenance={"adapters": {"default": {"sha256": hash_adapter(lora)}}}).path


def run(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    assert main(["adapter", *map(str, words)]) == 0
    return capsys.readouterr().out


def cells(out: str, first: str) -> list[str]:
    (row,) = [line for line in out.splitlines() if line.startswith(f"│ {first} ")]
    return [cell.strip() for cell in row.strip("│").split("│")]


@pytest.mark.parametrize("share", ["99%", "0.99", "99 %", ".99"])
def test_ranks_and_parameters(capsys: pytest.CaptureFixture[str], tmp_path: Path, share: str) -> None:
    lora, new = write(tmp_path / "lora"), tmp_path / "new"
    words = ["--truncate", share, "--run", write_run(tmp_path / "run.zarr", lora), "--out", new]
    out = run(capsys, lora, *words)
    assert cells(out, "q_proj") == ["q_proj", "2", "4", "1", "1 to 1"]
    assert cells(out, "up_proj") == ["up_proj", "2", "4", "4", "4 to 4"]
    assert f"{lora}: 1,280 parameters -> {new}: 896, 70.0 %\n" in out
    assert f"estimated KL from the whole adapter: 0.00616 ± 0 nat/token (3 samples of {tmp_path / 'run.zarr'})" in out
    again = run(capsys, lora, *words)
    assert again == out.replace("70.0 %", "70.0 %, there already")
    shown = run(capsys, new)
    assert f"{new}: 4 components, rank 1 to 4, scaling 1 (alpha / rank), 896 parameters in float32" in shown
    assert cells(shown, "q_proj")[4] == "1.00 of 1"


@pytest.mark.torch
def test_measured_on_data(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    model = save_model(tmp_path / "model", llama(len(tokenizer)), tokenizer)
    rows = [{"id": f"q{i}", "question": f"{i} + 1?", "choices": [str(i + 1), "no"], "answer": 0} for i in range(6)]
    (tmp_path / "some.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "some.txt").write_text("the question and the answer")
    captured = ["--run", write_run(tmp_path / "run.zarr", write(tmp_path / "lora"))]
    words = [*captured, "--model", model, "--data", tmp_path / "some.jsonl", "--limit", 4]
    out = run(capsys, tmp_path / "lora", "--truncate=60%", "--out", tmp_path / "new", *words)
    assert "On 4 samples, " in out
    assert [cells(out, name)[0] for name in ("base", "whole", "truncated")] == ["base", "whole", "truncated"]
    assert cells(out, "whole")[3] == "0 ± 0"
    assert " ± " in cells(out, "truncated")[3]
    assert "truncated - whole, by sample: CE " in out
    again = run(capsys, tmp_path / "lora", "--truncate=60%", "--out", tmp_path / "new", *words)
    assert again.splitlines()[-1] == out.splitlines()[-1]
    words = [*captured, "--model", model, "--data", tmp_path / "some.txt"]
    out = run(capsys, tmp_path / "lora", "--truncate=60%", "--out", tmp_path / "again", *words)
    assert cells(out, "truncated")[2] == "n/a"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{lora}", "--truncate=99%"], "`--out` is None; with `--truncate` it names the new adapter's folder"),
        (
            ["{lora}", "--truncate=99%", "--out=x.nc"],
            "`--out` is 'x.nc'; with `--truncate` it names the new adapter's folder",
        ),
        *(
            (
                ["{lora}", f"--truncate={share}", "--out={new}"],
                f"`--truncate` is '{share}'; give a share above 0 and at most 1, such as 99% or 0.99",
            )
            for share in ("99", "0%", "101%", "much", "1e-2")
        ),
        *(
            (
                ["{lora}", *more, "--truncate=99%", "--out={new}"],
                "`--truncate` takes one adapter, and neither `--component`, `--full` nor `--json`; leave them out",
            )
            for more in (["{lora}"], ["--component=*.q_proj"], ["--full"], ["--json"])
        ),
        (
            ["{lora}", "--truncate=99%", "--out={lora}"],
            "`out` is '{lora}', which is there already and isn't this truncation's; name a new folder",
        ),
        *(
            (
                ["{lora}", "--truncate=99%", "--out={new}", *more],
                "`--model` and `--data` go together, and a `--limit` of at least 1 with them; give both or none",
            )
            for more in (["--model=x"], ["--data=x"], ["--limit=3"], ["--model=x", "--data=y", "--limit=0"])
        ),
        *(
            (
                ["{lora}", more],
                "`--run`, `--model`, `--data` and `--limit` go with `--truncate`, such as 99%, and `--model` also with "
                "`--merged` and `--check-merge`; give one of these too",
            )
            for more in ("--data=x", "--run=x")
        ),
    ],
)
def test_mistakes(capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str], message: str) -> None:
    lora = write(tmp_path / "lora")
    places = {"lora": str(lora), "new": str(tmp_path / "new")}
    words = [word.format(**places) for word in words]
    if any("--truncate" in word for word in words):
        words.append(f"--run={write_run(tmp_path / 'run.zarr', lora)}")
    assert main(["adapter", *words]) == 2
    assert capsys.readouterr().err == f"lorascope: error: {message.format(**places)}\n"
    assert not (tmp_path / "new").exists()


def test_what_isnt_there_is_told_before_anything_is_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text("text")
    words = ["adapter", str(write(tmp_path / "lora")), "--truncate=99%", "--out", str(tmp_path / "new")]
    assert main(words) == 2
    message = "`--run` is missing; with `--truncate` it's a run of this adapter, captured with `--importance`"
    assert capsys.readouterr().err == f"lorascope: error: {message}\n"
    words += ["--run", str(write_run(tmp_path / "run.zarr", tmp_path / "lora"))]
    assert main([*words, "--model", "./no.gguf", "--data", str(tmp_path / "some.txt")]) == 2
    assert "`model` is './no.gguf', which doesn't exist" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_without_torch_the_extra_is_named_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    (tmp_path / "some.txt").write_text("text")
    code = "import sys; sys.modules['torch'] = None; from lorascope.cli.main import main; sys.exit(main(sys.argv[1:]))"
    new, more = str(tmp_path / "new"), [f"--model={tmp_path / 'model.gguf'}", f"--data={tmp_path / 'some.txt'}"]
    lora = write(tmp_path / "lora")
    options = ["--truncate=99%", "--run", str(write_run(tmp_path / "run.zarr", lora)), "--out", new]
    line = [sys.executable, "-c", code, "adapter", str(lora), *options]
    done = subprocess.run([*line, *more], capture_output=True, text=True, check=False)
    message = "this needs torch, which isn't installed; `pip install 'lorascope[capture]'` brings it"
    assert (done.returncode, done.stderr) == (2, f"lorascope: error: {message}\n")
    assert not Path(new).exists()
    assert subprocess.run(line, capture_output=True, check=False).returncode == 0
