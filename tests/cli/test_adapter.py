import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lorascope.cli import screen
from lorascope.cli.main import main

KINDS = {"q_proj": 12, "up_proj": 20}


@pytest.fixture(autouse=True, params=[80, 140])
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen.console, "width", request.param)


def write(folder: Path, *, scale: float = 1.0, n_layers: int = 6, kinds: tuple[str, ...] = tuple(KINDS)) -> Path:
    """An adapter of equal singular values: the norm of layer i is scale * (i + 1) * 2 * sqrt(2), its ranks are 2."""
    rng = np.random.default_rng(0)
    tensors: dict[str, Any] = {}
    for layer in range(n_layers):
        for kind in kinds:
            A, B = (np.linalg.qr(rng.normal(size=(n, 2)))[0] for n in (8, KINDS[kind]))
            path = f"base_model.model.model.layers.{layer}.{kind}"
            tensors[f"{path}.lora_A.weight"] = np.ascontiguousarray(A.T)
            tensors[f"{path}.lora_B.weight"] = np.ascontiguousarray(B * scale * (layer + 1))
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
    return folder


def run(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    assert main(["adapter", *map(str, words)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def cells(out: str, first: str) -> list[list[str]]:
    """The cells of each table row that begins so."""
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in out.splitlines() if line.startswith("│")]
    return [row for row in rows if row[0].startswith(first)]


def test_one_adapter(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = run(capsys, write(tmp_path / "lora"))
    total = 2 * np.sqrt(2 * 2 * sum((i + 1) ** 2 for i in range(6)))
    assert (
        f"lora: 12 components, rank 2, scaling 2 (alpha / rank), 576 parameters in float64, total norm {total:.2f}"
        in out
    )
    assert cells(out, "q_proj") == [["q_proj", "6", "9.90", "2.83 to 17.0", "2.00 of 2", "2.00", "50.0 %"]]
    assert cells(out, "model.") == []
    assert "share: part of the squared total norm" in out
    assert "untrained" not in out


def test_all_are_listed_in_the_models_order(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = run(capsys, write(tmp_path / "lora"), "--full")
    expected = [f"model.layers.{i}.{kind}" for i in range(6) for kind in KINDS]
    assert [row[0] for row in cells(out, "model.")] == expected
    assert cells(out, "model.layers.5.q")[0][1:] == ["1", "17.0", "", "2.00 of 2", "2.00", "19.8 %"]


def test_of_some_components_what_is_the_whole_adapters_is_called_so(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = run(capsys, write(tmp_path / "lora"), "--component=*.q_proj")
    assert "lora: 6 of 12 components, rank 2, scaling 2 (alpha / rank); the whole adapter: 576 parameters" in out


def test_untrained(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = run(capsys, write(tmp_path / "lora", scale=0))
    assert "untrained: s B A is zero in every component" in out
    assert cells(out, "q_proj") == [["q_proj", "6", "0", "0 to 0", "n/a of 2", "n/a", "n/a"]]


def write_mixture(folder: Path) -> Path:
    """Three experts of rank 2: in `down_proj` expert i has the norm 2 * sqrt(2) * (i + 1), in `gate_up_proj` 2."""
    path = write(folder, n_layers=1, kinds=("q_proj",))
    tensors = load_file(folder / "adapter_model.safetensors")
    module = "base_model.model.model.layers.0.mlp.experts"
    eye = np.eye(2)
    tensors[f"{module}.lora_A.weight"] = np.tile(eye, (3, 3))
    tensors[f"{module}.lora_B.weight"] = np.einsum("ir,e->ire", eye, [1, 2, 3]).reshape(2, 6) / np.sqrt(3)
    tensors[f"{module}.base_layer.lora_A.weight"] = np.tile(eye, (3, 1))
    tensors[f"{module}.base_layer.lora_B.weight"] = np.repeat(np.eye(12, 2), 3, axis=1) / np.sqrt(2)
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_parameters": ["down_proj", "gate_up_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return path


def test_experts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = write_mixture(tmp_path / "lora")
    assert "Experts" not in run(capsys, folder)
    out = run(capsys, folder, "--full")
    assert cells(out, "experts.down_proj")[0][4] == "5.50 of 6"  # exp of the entropy of 1, 1, 2, 2, 3, 3
    table = out[out.index("Experts with the largest and the smallest norm of s B A in lora") :]
    assert cells(table, "model.layers.0.mlp.experts.d")[0][1:] == ["3", "8.49 (expert 2)", "2.83 (expert 0)"]
    assert not cells(run(capsys, folder, "--full", "--component=*.q_proj"), "model.layers.0.mlp")
    (answer,) = json.loads(run(capsys, folder, "--json", "--component=*.down_proj"))["adapters"]
    assert [(row["kind"], row["n_experts"], row["rank"]) for row in answer["rows"]] == [("experts.down_proj", 3, 2)]
    assert [row["expert"] for row in answer["experts"]] == [0, 1, 2]
    norms = [row["frobenius_norm"] for row in answer["experts"]]
    np.testing.assert_allclose(norms, 2 * np.sqrt(2) * np.array([1, 2, 3]))
    assert answer["experts"][0].keys() >= {"component", "kind", "layer", "effective_rank", "stable_rank", "share"}
    (plain,) = json.loads(run(capsys, write(tmp_path / "plain"), "--json"))["adapters"]
    assert plain["experts"] == []


def test_several_side_by_side(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    one, two = write(tmp_path / "one"), write(tmp_path / "two", scale=2, kinds=("q_proj",))
    out = run(capsys, one, two)
    assert out.count("total norm") == 2
    assert cells(out, "q_proj") == [["q_proj", "9.90", "19.8"]]
    assert cells(out, "up_proj") == [["up_proj", "9.90", "n/a"]]
    assert cells(out, "model.") == []
    out = run(capsys, one, two, "--full")
    assert cells(out, "q_proj") == [["q_proj", "9.90", "19.8"], ["q_proj", "2.00", "2.00"]]
    assert cells(out, "model.layers.0.q") == [
        ["model.layers.0.q_proj", "2.83", "5.66"],
        ["model.layers.0.q_proj", "2.00", "2.00"],
    ]


def test_folders_of_one_name_are_told_apart(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folders = [write(tmp_path / name / "end", kinds=("q_proj",)) for name in "ab"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        out = run(capsys, *(folder.relative_to(tmp_path) for folder in folders))
    assert [line for line in out.splitlines() if "a/end" in line and "b/end" in line]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "`paths` is empty; give one adapter folder or several"),
        (
            ["{lora}", "{lora}", "--out", "x.nc"],
            "`--out` ending in `.zarr` or `.nc` takes one adapter of the 2; call it for each alone",
        ),
        (
            ["{lora}", "--out", "x.txt"],
            "`out` is 'x.txt'; its name must end in .csv (CSV), .parquet (Parquet), .json (JSON), .zarr (Zarr) or "
            ".nc (NetCDF)",
        ),
        (["nowhere"], "adapter 'nowhere' is not there; give a local folder that PEFT saved"),
    ],
)
def test_mistakes(capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str], message: str) -> None:
    lora = write(tmp_path / "lora")
    assert main(["adapter", *(word.format(lora=lora) for word in words)]) == 2
    err = capsys.readouterr().err
    assert err == f"lorascope: error: {message}\n"
