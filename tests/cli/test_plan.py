"""`lorascope plan` on a model made on the spot: what it prints, at two widths, and what it returns."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lorascope.cli import screen
from lorascope.cli.main import main
from lorascope.stores import open_place

pytestmark = pytest.mark.torch
if importlib.util.find_spec("torch") is None:
    pytest.skip("needs lorascope[capture]", allow_module_level=True)

import torch  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402

from .called import make_inputs  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan")
    model = make_inputs(path, 6)
    adapters: dict[str, dict[str, Any]] = {
        "adapter": {"target_modules": "all-linear", "init_lora_weights": False},
        "untrained": {"target_modules": ["q_proj"]},
        "saved": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"], "init_lora_weights": False},
    }
    with torch.random.fork_rng():
        for name, settings in adapters.items():
            adapted = get_peft_model(model, LoraConfig(r=2, **settings))
            adapted.save_pretrained(path / name, save_embedding_layers=False)
            adapted.unload()
    return path


def words(folder: Path, *more: str, adapter: str = "adapter", device: str = "cpu") -> list[str]:
    named = {"model": "model", "adapter": adapter, "data": "sums.train.jsonl", "out": "run.zarr"}
    return ["plan", *(w for k, v in named.items() for w in (f"--{k}", str(folder / v))), "--device", device, *more]


def run(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> tuple[int, str, str]:
    code = main(arguments)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("width", [80, 120])
def test_the_verdict_comes_first_and_tables_fit_the_width(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr(screen, "console", Console(width=width))
    code, out, _ = run(capsys, words(folder))
    assert code == 0
    assert re.search(r"^By role: \d+ prompt, \d+ choice, \d+ answer$", out, re.MULTILINE)
    lines = out.splitlines()
    assert lines[0] == "It fits."
    assert re.match(r"  ok  disk: about [\d.]+ MB needed, .* free$", lines[1])
    assert any(line.startswith("  ok  adapter 'default'") for line in lines)
    assert any(
        re.match(
            r"About [\d.]+ (s|min|h) \(load .*, score .*, capture .*\), bound by \w+, by a trial of \d+ tokens\.$",
            line,
        )
        for line in lines
    )
    titles = [next(i for i, line in enumerate(lines) if line.startswith(title)) for title in TITLES]
    assert titles == sorted(titles)
    assert all(len(line) <= width for line in lines[: titles[-1]] if line.startswith("│"))
    parts = ("base", "factor", "metadata", "in all")
    for row in ("forward", "bound by", "as tried", "disk", *parts, "row buffers", "weights"):
        assert re.search(rf"│ +{row} ", out), row
    assert "without the adapter" not in out  # which `--no-score-base` leaves out
    assert not (folder / "run.zarr").exists()


TITLES = ("Tokens per second", "What would be stored", "Memory", "Notes")


def test_without_a_probe_no_weights_are_read(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    code, out, _ = run(capsys, words(folder, "--no-probe"))
    assert code == 0
    assert "About" not in out


def test_json_is_one_object(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    code, out, _ = run(capsys, words(folder, "--no-probe", "--json", "--budget", "1.2MB"))
    assert code == 0
    values = json.loads(out)
    assert values["ok"] is True
    assert values["tokens"].startswith("share:")
    assert values["needed_bytes"] <= 1_200_000


def test_an_adapter_that_cant_be_captured_is_exit_code_1(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    code, out, _ = run(capsys, words(folder, adapter="untrained"))
    assert code == 1
    assert out.startswith("It fits.\n")
    assert "  NO  adapter 'default': all lora_B are zero" in out
    assert "(lora_B)" in out


def test_what_doesnt_fit_is_exit_code_1(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = type(open_place(folder))
    monkeypatch.setattr(local, "free_bytes", lambda place: 600_000)
    code, out, _ = run(capsys, words(folder, "--no-probe"))
    assert code == 1
    assert out.startswith("It doesn't fit.\n  NO  disk: about ")
    assert "      - `--states none` makes it" in out
    monkeypatch.setattr(local, "free_bytes", lambda place: None)
    code, out, _ = run(capsys, words(folder, "--no-probe"))
    assert code == 0
    assert "it isn't known how much is free" in out


@pytest.mark.parametrize(
    ("more", "device", "message"),
    [
        (["--tokens", "first"], "cpu", "`tokens` is 'first'"),
        ([], "tpu9", "`device` is 'tpu9'"),
        (["--fully-shard"], "cpu", "`fully_shard` is True, but `processes` is None; give the number"),
    ],
)
def test_a_mistake_is_one_line(
    capsys: pytest.CaptureFixture[str], folder: Path, more: list[str], device: str, message: str
) -> None:
    code, _, err = run(capsys, words(folder, "--no-probe", *more, device=device))
    assert code == 2
    assert err.removeprefix(f"loading {folder / 'model'}\n").count("\n") == 1
    assert message in err


def test_a_run_that_is_there_is_told(capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path) -> None:
    there = tmp_path / "run.zarr"
    arguments = [str(there) if word == str(folder / "run.zarr") else word for word in words(folder, "--no-probe")]
    assert "already" not in run(capsys, arguments)[1]
    assert main(["capture", *(word for word in arguments[1:] if word != "--no-probe")]) == 0
    capsys.readouterr()
    out = " ".join(run(capsys, arguments)[1].split())
    assert re.search(r"run\.zarr` holds [\d.]+ .B already: capture continues it if it is the same capture", out)


def test_an_ablation_is_announced(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    code, out, _ = run(capsys, words(folder, "--ablate", "kinds", "--ablate-share", "1", "--limit", "3"))
    assert code == 0
    assert re.search(r"Ablation of 7 kinds: 7 passes more, in 1 of 1 batch \(\d+ tokens\)", out)
    assert re.search(r"About .*, ablate .*, by a trial of", out)


def test_importance_is_announced(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    code, out, _ = run(capsys, words(folder, "--importance", "2", "--limit", "3", "--no-probe"))
    assert code == 0
    assert re.search(r"importance takes as long as 5 forward passes over up to 32 samples", " ".join(out.split()))
    assert re.search(r"gradients +│ +[\d.]+ .B", out)


def test_processes_that_hold_a_model_together(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    """On a device that isn't here, so that nobody knows whether it fits."""
    code, printed, _ = run(capsys, words(folder, "--tensor-parallel", "2", "--no-probe", device="cuda"))
    assert code == 0
    out = " ".join(printed.split())
    assert out.startswith("It fits, as far as it is known. ")
    assert re.search(r"\? device: about [\d.]+ .B needed by one process of 2, it isn't known how much is free", out)
    assert re.search(r"one process receives [\d.]+ .B over links, and [\d.]+ .B go to the disk", out)
    assert "\nMemory of one process\n" in printed
    assert re.search(r"│ sums that measure │ [\d.]+ k?B │ [\d.]+ .B │", out)
    code, out, _ = run(capsys, words(folder, "--fully-shard", "--processes", "2", "--no-probe", "--json"))
    values = json.loads(out)
    assert (values["processes"], values["links"].keys()) == (2, {"weights put together"})
    assert values["trial"] is None
