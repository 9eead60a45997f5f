"""Tiny models, tokenizers, items and adapters, made on the spot."""

import copy
import json
import os
import string
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from ..tiny import byte_tokenizer, llama, save_model

# Capture needs torch; where it is missing, its tests are passed over.
collect_ignore_glob = [] if find_spec("torch") else ["*test_*.py"]  # its pattern is held against whole paths

MERGED = ("Ġthe", "An", "swer", "ing", "Ġ4", "question", "Ġfour", "the")

RANKS = """
import sys
from lorascope.cli.main import main
import torch
torch.set_num_threads(1)
raise SystemExit(main(["capture", *sys.argv[1:]]))
"""


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny tensors gain nothing from threads, which cost a lot where tests run side by side."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def kernel() -> Iterator[Callable[..., Any]]:
    """Call a function of `fused` by its name in triton's interpreter: one process for all tests."""
    pytest.importorskip("triton", reason="the GPU kernel needs triton, which is on PyPI for Linux on x86-64")
    from .recording.test_fused import interpreter

    with interpreter() as run:
        yield run


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """A byte-level BPE tokenizer of about 280 tokens that puts <s> before a text."""
    return byte_tokenizer(MERGED)


@pytest.fixture
def tiny_model(tiny_tokenizer: Any) -> Any:
    """A Llama of 2 layers, hidden 32, 4 heads on 2 key-value heads, context 256; float32, seeded, in eval mode."""
    return llama(len(tiny_tokenizer))


@pytest.fixture
def tiny_items() -> Any:
    """Six questions with 2 to 4 choices of one or more tokens each."""
    from lorascope.capture.samples.items import ChoiceItem

    rows = [
        ("2 + 2?", ("4", "3"), 0),
        ("Name the answer.", ("the", "the fourth", "no"), 1),
        ("Which of the four is a metal?", ("iron", "wood", "air", "ice"), 0),
        ("Où est-ce?", ("à côté", "là"), 1),
        ("1 + 3?", ("5", "6", "4", "7"), 2),
        ("Asking?", ("yes", "not at all"), 0),
    ]
    return [
        ChoiceItem(id=letter, dataset="tiny", split="train", question=question, choices=choices, answer=answer)
        for letter, (question, choices, answer) in zip(string.ascii_lowercase, rows, strict=False)
    ]


@pytest.fixture
def tiny_adapter(tiny_model: Any, tmp_path: Path) -> Path:
    """Folder of a LoRA adapter for a tiny_model: r = 4, alpha 8, every linear layer, no B zero."""
    import copy

    import torch
    from peft import LoraConfig, get_peft_model

    from lorascope.capture.training.trainer import lora_targets

    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = LoraConfig(
            task_type="CAUSAL_LM", r=4, lora_alpha=8, lora_dropout=0.0, target_modules=lora_targets(tiny_model)
        )
        model = get_peft_model(copy.deepcopy(tiny_model), config)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter.data, std=0.1)
        folder = tmp_path / "tiny_adapter"
        model.save_pretrained(folder, save_embedding_layers=False)
    return folder


@pytest.fixture
def data(tiny_items: Any, tmp_path: Path) -> Path:
    """The six questions as a file."""
    path = tmp_path / "tiny.train.jsonl"
    rows = [{"id": i.id, "question": i.question, "choices": list(i.choices), "answer": i.answer} for i in tiny_items]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Text of about 3700 tokens: four rows."""
    path = tmp_path / "text.txt"
    path.write_text(" ".join(f"the question {i} is the answer {i * i % 97} times;" for i in range(170)))
    return path


@pytest.fixture
def adapted(tiny_model: Any, tiny_adapter: Path) -> Any:
    """The tiny model with its adapter."""
    from lorascope.capture import attach_adapter

    return attach_adapter(copy.deepcopy(tiny_model), tiny_adapter)


@pytest.fixture
def make(tiny_model: Any, tiny_tokenizer: Any, tiny_adapter: Path, data: Path, tmp_path: Path) -> Callable[..., Any]:
    """Capture the tiny model; `model` replaces the adapted one, all else goes into the configuration."""
    from lorascope.capture import CaptureConfig, attach_adapter, capture

    def run(
        out: str = "run.zarr", *, model: Any = None, progress: Any = None, dtype: Any = None, **settings: Any
    ) -> Any:
        base = copy.deepcopy(tiny_model) if dtype is None else copy.deepcopy(tiny_model).to(dtype)
        options = {"js_share": 1.0, "data": (str(data),), **settings}
        config = CaptureConfig(
            model="tiny", adapter=(str(tiny_adapter),), out=out if "://" in out else str(tmp_path / out), **options
        )
        taken = model if model is not None else attach_adapter(base, tiny_adapter)
        return capture(config, model=taken, tokenizer=tiny_tokenizer, progress=progress)

    return run


@pytest.fixture
def go(make: Callable[..., Any], text: Path) -> Callable[..., Any]:
    """Capture four rows of text."""

    def run(out: str = "run.zarr", **settings: Any) -> Any:
        return make(
            out, **{"data": (str(text),), "window_tokens": 200, "batch_tokens": 400, "js_share": 0.1, **settings}
        )

    return run


@pytest.fixture(scope="session")
def content() -> Callable[[Path], dict[str, bytes]]:
    """Every file of a run by its name; of the roots' metadata all but times and what was measured of them."""

    def read(run: Path) -> dict[str, bytes]:
        files = {str(file.relative_to(run)): file.read_bytes() for file in sorted(run.rglob("*")) if file.is_file()}
        for name in {"zarr.json", "neutral/zarr.json"} & set(files):
            root = json.loads(files[name])
            del root["attributes"]["measured"], root["attributes"]["root_digest"]
            for key in ("started", "settings"):  # `settings` holds the folder's own name
                root["attributes"]["provenance"].pop(key)
            files[name] = json.dumps(root, sort_keys=True).encode()
        return files

    return read


@pytest.fixture
def launch(tmp_path: Path) -> Any:
    """Run a script in the test's folder, in this many processes."""

    def run(n_ranks: int, script: str, *words: str) -> subprocess.CompletedProcess[str]:
        many = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n_ranks)] if n_ranks > 1 else []
        return subprocess.run(
            [sys.executable, *many, script, *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        )

    return run


@pytest.fixture
def command(
    launch: Any, tiny_model: Any, tiny_tokenizer: Any, tiny_adapter: Path, text: Path, data: Path, tmp_path: Path
) -> Any:
    """Run `lorascope capture` in this many processes."""
    save_model(tmp_path / "model", tiny_model, tiny_tokenizer)
    (tmp_path / "ranks.py").write_text(RANKS)

    def run(out: str, n_ranks: int, *words: str) -> subprocess.CompletedProcess[str]:
        options = ["--model", "model", "--adapter", str(tiny_adapter), "--data", str(text), "--data", str(data)]
        options += ["--out", out, "--window-tokens", "200", "--batch-tokens", "400", *words]
        finished: subprocess.CompletedProcess[str] = launch(n_ranks, "ranks.py", *options)
        return finished

    return run
