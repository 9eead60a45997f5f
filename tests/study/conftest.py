"""Small studies: one to run, of models made on the spot and lorascope's own questions; and results of known numbers."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lorascope.study.demo_inputs import facts_path
from lorascope.study.results.units import UnitResult, read_units

from ..analyze.conftest import make_small  # noqa: F401 (a fixture)
from .made import make_study

TINY = Path(__file__).parents[2] / "study/tiny/make_models.py"


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of `llama`, `phi3` and the text files that the tiny study makes."""
    pytest.importorskip("torch")
    spec = importlib.util.spec_from_file_location("make_models", TINY)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("models")
    module.main(folder)
    return folder


@pytest.fixture
def content() -> dict[str, Any]:
    """Settings of a study of two units that need nothing but files of questions."""
    return {
        "model": "llama",
        "grid": [{"rank": [2, 4]}],
        "shared_layers": 4,
        "data": str(facts_path("train").parent),
        "training": {"learning_rate": 1e-2, "batch_size": 4, "max_steps": 3},
        "tasks": {
            "facts": {
                "train": "facts.train.jsonl",
                "train_items": 8,
                "test": "facts.test.jsonl",
                "test_items": 6,
            }
        },
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """Writes settings into a study's file."""

    def written(content: dict[str, Any]) -> Path:
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return written


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four model sizes at rank 8, three ranks, one seed."""
    return make_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="session")
def units(study: Path) -> list[UnitResult]:
    return read_units(study)


@pytest.fixture(scope="session")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[UnitResult]:
    """The same with three seeds."""
    folder = tmp_path_factory.mktemp("seeds")
    for seed in range(3):
        make_study(folder, seed=seed)
    return read_units(folder)
