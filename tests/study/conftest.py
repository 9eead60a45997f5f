"""A small study: models made on the spot, lorascope's own questions, a text."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lorascope.study.demo_inputs import facts_path

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
