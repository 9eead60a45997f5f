"""A tiny model, its adapter and data in a folder: what `kill.py` and its kin capture.

python benchmarks/tiny_run.py FOLDER CHARACTERS [mixture]
"""

import subprocess
import sys
from pathlib import Path

N_QUESTIONS = 40
COMMANDS = ("capture", "pull", "study run")
"""Commands that write what must survive a kill."""
STUDY = """
model: inputs/model
grid: [{rank: [2, 4]}]
shared_layers: 2
states: all
training: {learning_rate: 0.01, batch_size: 4, max_steps: 6}
tasks:
  facts: {train: inputs/questions.test.jsonl, train_items: 24, test: inputs/held-out.jsonl, test_items: 6}
"""


def make_inputs(folder: Path, n_characters: int, *, mixture: bool = False) -> list[str]:
    """Make them in a process of its own, so that the caller stays without threads; returns the command line's words."""
    words = [sys.executable, __file__, str(folder), str(n_characters), *["mixture"][:mixture]]
    subprocess.run(words, check=True, capture_output=True)
    return [
        *("--model", str(folder / "model")),
        *("--adapter", str(folder / "adapter")),
        *("--data", str(folder / "questions.test.jsonl"), "--data", str(folder / "text.txt")),
        *("--window-tokens", "300"),  # neither windows nor batches end where rows do
        *("--js-share", "0.05"),
    ]


def make_run(folder: Path, n_characters: int, *more: str) -> Path:
    """A finished run of them, captured by the command line with these further words; `folder` must be new."""
    inputs, run = make_inputs(folder, n_characters), folder / "run.zarr"
    words = ["capture", *inputs, *more, "--out", str(run)]
    subprocess.run([sys.executable, "-m", "lorascope", *words], check=True, capture_output=True)
    return run


def prepare_command(command: str, folder: Path, n_characters: int, mixture: str = "") -> tuple[list[str], Path]:
    """(words of a command, folder that it writes), once all that it needs lies in `folder`.

    A capture is of a mixture's experts if `mixture` names a stream.
    """
    out = folder / "run.zarr"
    if command == "capture":
        words = make_inputs(folder / "inputs", n_characters, mixture=bool(mixture))
        return ["capture", *words, *(["--stream", mixture] if mixture else []), "--out", str(out)], out
    if command == "study run":
        make_inputs(folder / "inputs", 0)
        file = folder / "study.yaml"
        file.write_text(STUDY)
        return ["study", "run", str(file)], folder / "study"
    source = make_run(folder / "inputs", n_characters)
    return [command, str(source), str(out), "--tokens", "share:0.9"], out


def main() -> None:
    import torch
    from models import adapt, byte_tokenizer, facts_text, random_model
    from transformers import LlamaConfig, MixtralConfig

    from lorascope.study.demo_inputs import facts_path

    folder, n_characters, is_mixture = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] == ["mixture"]
    folder.mkdir(parents=True)
    tokenizer = byte_tokenizer()
    kind, more = (MixtralConfig, {"num_local_experts": 5}) if is_mixture else (LlamaConfig, {})
    config = kind(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        **more,
    )
    model = random_model(config, dtype=torch.float32)
    model.save_pretrained(str(folder / "model"))
    tokenizer.save_pretrained(str(folder / "model"))
    adapt(model, folder / "adapter", rank=4, experts=is_mixture)
    lines = facts_path("test").read_text().splitlines(keepends=True)
    (folder / "questions.test.jsonl").write_text("".join(lines[:N_QUESTIONS]))
    (folder / "held-out.jsonl").write_text("".join(lines[N_QUESTIONS : 2 * N_QUESTIONS]))
    (folder / "text.txt").write_text(facts_text(n_characters))


if __name__ == "__main__":
    main()
