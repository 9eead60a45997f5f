"""What a rank holds and receives by a plan: against closed forms, and against processes that hold a model together."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from lorascope.capture import CaptureConfig
from lorascope.capture.planning.meta import attach_on_meta, load_on_meta
from lorascope.capture.planning.plan import Plan, plan
from lorascope.capture.recording.partial_sums import NORMALISERS, SUMS

from ...tiny import llama, save_model

RANK = 4
HIDDEN, WIDE, KEYS, LAYERS = 32, 64, 16, 2
"""Features of the stream, of the MLP, and of keys and values, and layers of the Llama in `tests/tiny.py`."""
BUFFERS = 2 * 4 * (HIDDEN // 4 // 2)
"""Bytes of the rotary embedding's frequencies, which the model holds twice."""


@pytest.fixture
def plan_of(tiny_tokenizer: Any, text: Path, tmp_path: Path) -> Any:
    """Plan a capture of a Llama in bfloat16 with LoRA on all its layers."""
    model = llama(len(tiny_tokenizer)).to(torch.bfloat16)
    save_model(tmp_path / "model", model, tiny_tokenizer)
    lora = LoraConfig(r=RANK, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(model, lora).save_pretrained(tmp_path / "adapter")

    def make(processes: int | None = None, **settings: Any) -> Plan:
        given = {"model": str(tmp_path / "model"), "adapter": str(tmp_path / "adapter"), "data": str(text)}
        given |= {
            "out": str(tmp_path / "run.zarr"),
            "device": "cuda",
            "window_tokens": 200,
            "js_share": 1.0,
            **settings,
        }
        return plan(CaptureConfig(**given), probe=False, processes=processes)

    return make


def on_device(made: Plan) -> dict[str, int]:
    return dict(next(fit for fit in made.fit if fit.what == "device").parts)


def test_one_process_holds_all_weights(plan_of: Any, tmp_path: Path) -> None:
    made = plan_of()
    meta, _ = attach_on_meta(load_on_meta(str(tmp_path / "model")).model, {"default": str(tmp_path / "adapter")})
    assert on_device(made)["weights"] == meta.get_base_model().get_memory_footprint()
    assert (made.processes, made.links) == (1, {})


def test_a_rank_of_tensor_parallel_holds_its_part_of_each_layer(plan_of: Any, tiny_tokenizer: Any) -> None:
    alone, two = plan_of(), plan_of(tensor_parallel=2)
    n_words, norms = len(tiny_tokenizer), (2 * LAYERS + 1) * HIDDEN
    matrices = 2 * HIDDEN * HIDDEN + 2 * HIDDEN * KEYS + 3 * HIDDEN * WIDE
    whole_lora = RANK * 7 * HIDDEN  # A of five column layers, B of two row layers
    split_lora = RANK * (HIDDEN + 2 * KEYS + 2 * WIDE + HIDDEN + WIDE)
    held = 2 * (2 * -(-n_words // 2) * HIDDEN + norms + LAYERS * matrices // 2)
    held += 4 * LAYERS * (whole_lora + split_lora // 2)
    parts, before = on_device(two), on_device(alone)
    assert parts["weights"] == held + BUFFERS
    n_tokens = before["outputs of a layer"] // (2 * (3 * HIDDEN + 2 * KEYS + 2 * WIDE))
    assert parts["outputs of a layer"] == n_tokens * 2 * (2 * HIDDEN + (HIDDEN + 2 * KEYS + 2 * WIDE) // 2)
    assert parts["logits"] == before["logits"] + n_tokens * n_words * 2
    assert parts["states under way"] == before["states under way"]


def test_what_rank_0_of_tensor_parallel_receives(plan_of: Any, tiny_tokenizer: Any) -> None:
    made = plan_of(tensor_parallel=2)
    n_passed, n_tokens = made.n_padded, made.spec.n_tokens
    columns = LAYERS * (HIDDEN + 2 * KEYS + 2 * WIDE)
    summed = HIDDEN * 2 + LAYERS * 2 * (HIDDEN * 2 + RANK * 4)  # embedding, then each row layer and its z
    assert made.links == {
        "sums of the model": n_passed * summed,
        "outputs gathered by the model": n_passed * len(tiny_tokenizer) * 2 // 2,
        "base gathered to be stored": n_tokens * columns * 2 // 2,
        "sums that measure": n_tokens * 5 * LAYERS * 8 * (NORMALISERS + SUMS),
    }
    assert plan_of(tensor_parallel=2, states="none").links["base gathered to be stored"] == 0
    mesh = plan_of(tensor_parallel=2, processes=4)
    assert mesh.links == {what: size // 2 for what, size in made.links.items()}
    layer = 2 * HIDDEN * HIDDEN + 2 * HIDDEN * KEYS + 3 * HIDDEN * WIDE + 2 * 2 * HIDDEN  # norms are whole
    words = 2 * -(-len(tiny_tokenizer) // 2) * HIDDEN
    together = layer + max(layer, words) + words + 2 * HIDDEN
    assert on_device(mesh) == {**on_device(made), "weights put together": together}
    pair = plan_of(tensor_parallel=2, stream="pair").links
    assert pair["base gathered to be stored"] == 2 * made.links["base gathered to be stored"]


def test_fsdp_shards_all_weights_and_puts_two_units_together(plan_of: Any, tiny_tokenizer: Any) -> None:
    made = plan_of(fully_shard=True, processes=3)
    n_words, third, narrow, wide = len(tiny_tokenizer), -(-HIDDEN // 3), -(-KEYS // 3), -(-WIDE // 3)
    matrices = 2 * third * HIDDEN + 2 * narrow * HIDDEN + 2 * wide * HIDDEN + third * WIDE
    held = 2 * (2 * -(-n_words // 3) * HIDDEN + (2 * LAYERS + 1) * third + LAYERS * matrices)
    held += 4 * LAYERS * RANK * (9 * HIDDEN + 2 * KEYS + 3 * WIDE)
    words, norm = 2 * n_words * HIDDEN, 2 * HIDDEN
    layer = 2 * (2 * HIDDEN * HIDDEN + 2 * HIDDEN * KEYS + 3 * HIDDEN * WIDE + 2 * HIDDEN)
    parts = on_device(made)
    assert parts["weights"] == held + BUFFERS
    assert parts["weights put together"] == layer + max(layer, words) + words + norm
    assert parts["logits"] == on_device(plan_of())["logits"]
    n_passes = -(-made.n_batches // 3)
    received = n_passes * (words + LAYERS * layer) + words + norm
    assert made.links == {"weights put together": received * 2 // 3}


RANKS = """
import os, sys
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig
from lorascope.capture import capture, load_model
from lorascope.capture.models.adapter import attach_adapters
from lorascope.capture.models.ranks import join_ranks

torch.set_num_threads(1)
with join_ranks(torch.device("cpu")) as ranks:
    model, tokenizer = load_model("model", tensor_parallel=int(sys.argv[1]), fully_shard=sys.argv[2] == "True")
    model = attach_adapters(model, {"default": "adapter"})
    parts = [getattr(weight, "to_local", lambda: weight)() for weight in (*model.parameters(), *model.buffers())]
    sizes = ranks.gather(sum(part.nbytes for part in parts))
    if ranks.leads:
        print("held", *sizes)
        try:
            load_model("odd", tensor_parallel=2)
        except ValueError as error:
            print("refused", error)
    if sys.argv[1] == "2":  # transformers splits 97 features too, into 49 and 48
        split = AutoModelForCausalLM.from_pretrained("wide", distributed_config=DistributedConfig(tp_size=2))
        split = get_peft_model(split, LoraConfig(r=2, target_modules=["gate_proj"], task_type="CAUSAL_LM"))
        try:
            capture(split, [{"text": "a text"}], "wide.zarr", tokenizer=tokenizer, allow_zero=True)
        except ValueError as error:
            os.write(1, f"in memory {ranks.rank} {error}\\n".encode())
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", [{"tensor_parallel": 2}, {"fully_shard": True}], ids=["tensor parallel", "FSDP2"])
def test_two_processes_hold_what_was_planned(plan_of: Any, tmp_path: Path, way: dict[str, Any]) -> None:
    planned = on_device(plan_of(processes=2, **way))["weights"]
    (tmp_path / "ranks.py").write_text(RANKS)
    odd = json.loads((shutil.copytree(tmp_path / "model", tmp_path / "odd") / "config.json").read_text())
    (tmp_path / "odd/config.json").write_text(json.dumps({**odd, "num_key_value_heads": 1}))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    save_model(tmp_path / "wide", llama(len(tokenizer), intermediate_size=97), tokenizer)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "ranks.py"]
    done = subprocess.run(
        [sys.executable, *launch, str(way.get("tensor_parallel", 1)), str(way.get("fully_shard", False))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    held = next(line for line in done.stdout.splitlines() if line.startswith("held")).split()[1:]
    assert len(held) == 2
    assert max(map(int, held)) == planned
    assert "refused `tensor_parallel` is 2, which doesn't divide `num_key_value_heads`" in done.stdout
    refused = r"^in memory [01] .* doesn't divide `out_features` of `model\.layers\.0\.mlp\.gate_proj` .*, 97; give"
    assert len(re.findall(refused, done.stdout, re.MULTILINE)) == (2 if way.get("tensor_parallel") else 0), done.stdout


def test_trained_tokens_of_a_split_embedding_are_a_problem(plan_of: Any, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    lora = LoraConfig(target_modules=["o_proj"], trainable_token_indices=[3], task_type="CAUSAL_LM")
    get_peft_model(model, lora).save_pretrained(tmp_path / "trained")
    made = plan_of(tensor_parallel=2, adapter=str(tmp_path / "trained"), allow_zero=True)
    assert any("embedding" in problem.message for problem in made.problems), made.problems


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"fully_shard": True}, "`processes` is None; give the number, 2 or more"),
        ({"fully_shard": True, "processes": 1}, "`processes` is 1; give the number, 2 or more"),
        ({"tensor_parallel": 2, "processes": 3}, "`processes` is 3; give a multiple of `tensor_parallel`, 2"),
        ({"processes": 2}, "`processes` is 2, but neither `tensor_parallel` nor `fully_shard` is set"),
        ({"processes": 0}, "`processes` is 0; give a multiple of `tensor_parallel`, 1"),
    ],
)
def test_processes_that_dont_fit_the_settings_are_refused(plan_of: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plan_of(**settings)


def test_a_model_that_cant_be_split_is_refused(plan_of: Any) -> None:
    with pytest.raises(ValueError, match="`tensor_parallel` is 4, which doesn't divide `num_key_value_heads`"):
        plan_of(tensor_parallel=4)
