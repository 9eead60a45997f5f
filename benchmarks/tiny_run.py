"""A tiny model, its adapter and data in a folder: what `kill.py` captures.

python benchmarks/tiny_run.py FOLDER CHARACTERS
"""

import json
import subprocess
import sys
from pathlib import Path

N_QUESTIONS = 40


def make_inputs(folder: Path, n_characters: int) -> list[str]:
    """Make them in a process of its own, so that the caller stays without threads; returns the command line's words."""
    subprocess.run([sys.executable, __file__, str(folder), str(n_characters)], check=True, capture_output=True)
    return [
        *("--model", str(folder / "model")),
        *("--adapter", str(folder / "adapter")),
        *("--data", str(folder / "questions.test.jsonl"), "--data", str(folder / "text.txt")),
        *("--window-tokens", "300"),  # neither windows nor batches end where rows do
        *("--js-share", "0.05"),
    ]


def main() -> None:
    import torch
    from models import adapt, byte_tokenizer, facts_text, random_model
    from transformers import LlamaConfig

    from lorascope.study.demo_inputs import facts_path

    folder, n_characters = Path(sys.argv[1]), int(sys.argv[2])
    folder.mkdir(parents=True)
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
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
    )
    model = random_model(config, dtype=torch.float32)
    model.save_pretrained(str(folder / "model"))
    tokenizer.save_pretrained(str(folder / "model"))
    adapt(model, folder / "adapter", rank=4)
    lines = facts_path("test").read_text().splitlines()[:N_QUESTIONS]
    (folder / "questions.test.jsonl").write_text("\n".join(json.dumps(json.loads(line)) for line in lines) + "\n")
    (folder / "text.txt").write_text(facts_text(n_characters))


if __name__ == "__main__":
    main()
