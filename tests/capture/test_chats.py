"""Fifty conversations, fine-tuned with TRL, captured from memory and from their file, and read by hand."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer
from trl.chat_template_utils import gemma3_chat_template, llama3_chat_template, qwen2_5_chat_template

from lorascope.capture import CaptureConfig, MiubCallback, capture, read_items
from lorascope.capture.samples.encode import encode_items
from lorascope.stores import Run, verify
from lorascope.stores.format.tables import ROLES

from ..chats import chat_tokenizer, roles_by_hand, token_bytes
from ..marks import slow_but
from ..tiny import llama, save_model

pytestmark = [
    # TRL 1.16 gives transformers 5.24 settings under their old names.
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning"),
]
Chat = list[dict[str, str]]

WORDS = "iron air über là 水 銀 🙂 👩\u200d🚀 naïve Ω system user assistant model im_start 3.5 \u00a0 <b> {x} \n\n \n  "
SYSTEM = ("You are a helpful assistant.", "Réponds en français, sans façon…", "system\n\nuser: be brief 🙂")


def dialogues(n: int, seed: int = 0) -> list[Chat]:
    """Chats of one to four questions, some with a system prompt; words, line breaks and spaces in any order."""
    rng = random.Random(seed)
    chats = []
    for _ in range(n):
        chat = [{"role": "system", "content": rng.choice(SYSTEM)}] if rng.random() < 0.4 else []
        for _ in range(rng.randint(1, 4)):
            for role in ("user", "assistant"):
                words = " ".join(rng.choices(WORDS.split(" "), k=rng.randint(1, 6)))
                chat.append({"role": role, "content": f"{words}{rng.choice('?.!a')}{rng.choice(['', ' '])}"})
        chats.append(chat)
    return chats


PUBLISHED = {"chatml": qwen2_5_chat_template, "llama3": llama3_chat_template, "gemma": gemma3_chat_template}
"""Templates as TRL holds them: it knows which tokens of theirs are the assistant's."""


class Logger(TrainerCallback):
    """What a logger of `report_to` is given."""

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
        self.logs.append(dict(logs))


def row_arrays(run: Run) -> dict[str, np.ndarray]:
    """Every array of a run except the names of its samples."""
    found = zarr.open_group(run.path, mode="r")
    names = {f"samples/{name}" for name in ("id", "dataset", "split")}
    return {name: node[...] for name, node in found.members(None) if isinstance(node, zarr.Array) and name not in names}


@pytest.mark.parametrize("name", slow_but(PUBLISHED, "llama3"))
def test_fifty_conversations_from_memory_are_those_of_their_file(name: str, tmp_path: Path) -> None:
    chats, tokenizer = dialogues(50), chat_tokenizer(name)
    tokenizer.chat_template = PUBLISHED[name]
    rows = Dataset.from_list([{"messages": chat} for chat in chats])
    special = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    base = llama(len(tokenizer), max_position_embeddings=256, **special)
    folder, file = save_model(tmp_path / "model", base, tokenizer), tmp_path / "chats.jsonl"
    file.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats), encoding="utf-8")
    logger = Logger()
    settings = {"max_steps": 3, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "logging_steps": 1}
    quiet = {"use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no", "disable_tqdm": True}
    trainer = SFTTrainer(
        base,
        SFTConfig(str(tmp_path / "trained"), assistant_only_loss=True, max_length=None, **settings, **quiet),
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[logger, MiubCallback(rows.select(range(4)), tokenizer, every=2)],
    )
    trainer.train()
    assert [entry["step"] for entry in trainer.state.log_history if "miub" in entry] == [0, 2, 3]
    assert [logs["miub"] > 0 for logs in logger.logs if "miub" in logs] == [False, True, True]

    trainer.model.save_pretrained(tmp_path / "adapter")
    memory = capture(trainer.model, rows, tmp_path / "memory.zarr", tokenizer=tokenizer)
    config = CaptureConfig(
        model=str(folder), adapter=(str(tmp_path / "adapter"),), data=(str(file),), out=str(tmp_path / "file.zarr")
    )
    stored = capture(config)
    one, other = row_arrays(memory), row_arrays(stored)
    assert one.keys() == other.keys()
    assert len(one["rows/digest"]) > 3
    for path, values in one.items():
        np.testing.assert_array_equal(values, other[path], err_msg=path)
    assert verify(memory.path).ok

    tokens = stored.tokens
    found = [ROLES[role] for role in tokens["role"].values]
    for number, chat in enumerate(chats):
        mine = np.flatnonzero(tokens["sample"].values == number)
        by_hand = roles_by_hand(name, tokenizer, chat, tokens["token_id"].values[mine])
        assert [found[k] for k in mine] == by_hand, chat
    assert set(found) == {"system", "user", "assistant", "template"}
    # TRL trains on these very tokens; two of its templates count a line break around a turn to it.
    samples = encode_items(read_items(file), tokenizer, max_length=256, window_tokens=64)
    for sample, row in zip(samples, trainer.train_dataset, strict=True):
        assert row["input_ids"] == sample.token_ids.tolist()
        trained = np.array(row["labels"]) != -100
        assert (trained >= sample.is_target).all()
        more = {token_bytes(name, tokenizer, token) for token in sample.token_ids[trained & ~sample.is_target]}
        assert more <= ({b"\n"} if name != "llama3" else set())
