"""Whether a run's adapter is what a real vLLM serves; only `make test-served` runs this, in an environment with vLLM.

Each server is vLLM's own, on the CPU, with a model of 135 million parameters; adapters are its LoRA modules.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from lorascope.cli.main import main
from lorascope.study.demo_inputs import demo_model, facts_path

VLLM = os.environ.get("VLLM_PYTHON", "")
"""Python of the environment that has vLLM."""
pytestmark = [pytest.mark.skipif(not VLLM, reason="`make test-served` runs it"), pytest.mark.torch, pytest.mark.slow]
ADAPTERS = ("right", "doubled", "similar", "wrong")
"""`similar` learned to answer the same questions wrongly, `wrong` to write answers backwards."""
N_STEPS, N_QUESTIONS = 15, 26
CHATS = [
    ("Name three colours.", "Red, green and blue."),
    ("How many legs has a spider?", "A spider has eight legs."),
    ("Write a line of code.", '    print("hello")\n'),
    ("Who wrote Hamlet?", " William Shakespeare wrote it. "),
    ("Is ice cold?", "Yes, it is cold."),
    ("Say a word with an accent.", "Café is one."),
]


def records(split: Literal["train", "test"]) -> list[dict[str, Any]]:
    """The demo's questions."""
    return [json.loads(line) for line in facts_path(split).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base, itself and changed, adapters, and a run of the base with the adapter `right`."""
    import torch

    from lorascope.capture import FinetuneConfig, attach_adapter, capture, finetune, load_model, read_items

    path = tmp_path_factory.mktemp("served")
    model, tokenizer = load_model(demo_model())

    def save(name: str) -> None:
        model.save_pretrained(path / name)
        tokenizer.save_pretrained(path / name)

    save("base")
    train = [{"question": q["question"], "choices": q["choices"], "answer": q["answer"]} for q in records("train")]
    turned = [q | {"answer": (q["answer"] + 1) % len(q["choices"])} for q in train]
    settings = FinetuneConfig(rank=8, learning_rate=1e-3, batch_size=8, max_steps=N_STEPS)
    backwards = [{"prompt": f"{q['question']}\n", "completion": q["choices"][0][::-1]} for q in train]
    for name, questions in (("right", train), ("similar", turned), ("wrong", backwards)):
        finetune(model, tokenizer, read_items(questions), path / name, settings)
    shutil.copytree(path / "right", path / "doubled")
    written = json.loads((path / "right" / "adapter_config.json").read_text())
    (path / "doubled" / "adapter_config.json").write_text(
        json.dumps(written | {"lora_alpha": 2 * written["lora_alpha"]})
    )
    chats = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in CHATS]
    data = [*read_items(records("test")[:N_QUESTIONS]), *read_items(chats)]
    options: dict[str, Any] = {"states": "none", "changes": "all", "progress": False}
    capture(attach_adapter(model, path / "right"), data, path / "run", tokenizer=tokenizer, **options)
    model = load_model(path / "base")[0]
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():  # as a base of the same family that was trained further
        for name, value in model.named_parameters():
            if value.ndim == 2 and "embed" not in name:
                value += 0.1 * value.std() * torch.randn(value.shape, generator=generator)
    save("another")
    model = load_model(path / "base")[0]
    assert tokenizer.add_tokens(["correct answer"]) == 1  # which all questions hold
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    save("longer")
    return path


@contextmanager
def serve(folder: Path, model: str, *options: str, dtype: str = "float32") -> Iterator[str]:
    """A vLLM with a model and all adapters, as the block's url; requests one by one, as LoRA on CPUs needs it."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = str(unused.getsockname()[1])
    modules = [f"{name}={folder / name}" for name in ADAPTERS]
    command = [
        *(VLLM, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder / model), "--served-model-name"),
        *("base", "--host", "127.0.0.1", "--port", port, "--dtype", dtype, "--max-model-len", "256"),
        *("--enforce-eager", "--enable-lora", "--max-lora-rank", "8", "--max-loras", "3", "--max-num-seqs", "1"),
        *("--lora-modules", *modules, *options),
    ]
    quiet = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    log = folder / f"{model}-{dtype}.log"
    with log.open("wb") as screen:
        process = subprocess.Popen(
            command, env=os.environ | quiet, stdout=screen, stderr=screen, start_new_session=True
        )
        try:
            url, end = f"http://127.0.0.1:{port}", time.monotonic() + 600
            while True:
                assert process.poll() is None, log.read_text(errors="replace")[-3000:]
                assert time.monotonic() < end, "vLLM didn't start within ten minutes"
                try:
                    urllib.request.urlopen(f"{url}/health", timeout=5).close()
                    break
                except OSError:
                    time.sleep(1)
            yield url
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def ask(folder: Path, capsys: pytest.CaptureFixture[str], record_property: Any) -> Callable[..., dict[str, Any]]:
    """What `verify --against` says of a server's model, with its exit code."""

    def ask(url: str, name: str) -> dict[str, Any]:
        code = main(["verify", str(folder / "run"), "--against", url, "--served-model", name, "--json"])
        answer = json.loads(capsys.readouterr().out) | {"code": code}
        with (folder / "answers.jsonl").open("a") as file:
            file.write(json.dumps({"url": url, "name": name, **answer}) + "\n")
        return answer

    return ask


def check(answer: dict[str, Any], verdict: str, code: int) -> dict[str, float]:
    """Compare verdict and exit code, and return the numbers of all tokens."""
    assert (answer["verdict"], answer["code"]) == (verdict, code), answer["sentence"]
    numbers: dict[str, float] = answer["all"]
    return numbers


def test_adapters_on_their_base(folder: Path, ask: Callable[..., dict[str, Any]]) -> None:
    with serve(folder, "base") as url:
        right = ask(url, "right")
        numbers = check(right, "adapter", 0)
        assert numbers["slope"] == pytest.approx(1, abs=1e-3)
        assert numbers["off"] < 1e-3 * numbers["change"]  # float32 on both sides
        n_chats = len(CHATS)
        assert right["texts"] == [
            f"as {k}, all {n} samples have the run's tokens" for k, n in (("text", 32), ("chat", n_chats))
        ]
        assert right["not_compared"] == []
        numbers = check(ask(url, "base"), "base", 1)
        assert numbers["slope"] == pytest.approx(0, abs=1e-3)
        numbers = check(ask(url, "doubled"), "scaled", 1)
        assert 1.5 < numbers["slope"] < 2.1
        numbers = check(ask(url, "similar"), "unknown", 3)
        assert 0.1 * numbers["change"] < numbers["off"] < 0.5 * numbers["change"]
        check(ask(url, "wrong"), "else", 1)


def test_another_base(folder: Path, ask: Callable[..., dict[str, Any]]) -> None:
    with serve(folder, "another") as url:
        check(ask(url, "right"), "unknown", 3)  # it differs by as much as rounding to 4 bits may


def test_a_changed_template_and_bfloat16(folder: Path, ask: Callable[..., dict[str, Any]]) -> None:
    template = (folder / "base" / "chat_template.jinja").read_text(encoding="utf-8")
    assert "You are a helpful AI assistant" in template
    other = folder / "other.jinja"
    other.write_text(template.replace("a helpful AI assistant", "an AI"), encoding="utf-8")
    with serve(folder, "base", "--chat-template", str(other), dtype="bfloat16") as url:
        answer = ask(url, "right")
        numbers = check(answer, "else", 1)
        assert "it predicts as the adapter, but as chat, 6 of 6 samples have other tokens" in answer["sentence"]
        assert numbers["slope"] == pytest.approx(1, abs=0.05)
        assert 1e-3 * numbers["change"] < numbers["off"] < 0.1 * numbers["change"]
        check(ask(url, "base"), "base", 1)


def test_a_token_more(folder: Path, ask: Callable[..., dict[str, Any]]) -> None:
    with serve(folder, "longer") as url:
        answer = ask(url, "right")
        check(answer, "else", 1)
        assert "it predicts as the adapter, but as text, 26 of 32 samples have other tokens" in answer["sentence"]
        assert "' correct', is" in answer["sentence"]
