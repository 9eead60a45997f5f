"""The selftest: checks of captures on this machine, with a tiny model of its own, and how fast they are."""

import dataclasses
import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lorascope.stores.size import format_size

from ..config import CaptureConfig
from ..models.device import parse_device, require_device
from ..models.model import model_facts
from ..planning.memory import free_host_bytes
from ..planning.meta import load_on_meta
from ..settling.data import encode_data, read_data
from ..settling.estimate import n_cores
from ..settling.inputs import require_inputs
from ..settling.provenance import device_description
from ..settling.trial import TrialResult, Way, run_trial
from ..training.trainer import lora_targets
from .checks import Check, check_capture, check_copies, check_measuring, check_ranks

SELFTEST_STAGES = ("measuring, and copies", "captures, compared", "rates")
"""Stages of a selftest, in order."""
TRIAL_SECONDS = 6.0
"""About how long each way of capturing is timed."""
VERSIONS = ("lorascope", "torch", "transformers", "peft", "numpy", "zarr", "numcodecs")
RANK = 8
N_SUMS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Selftest:
    """Results of a selftest: this machine in words, the checks, and the speed of captures."""

    machine: dict[str, str]
    checks: tuple[Check, ...]
    trials: Mapping[Way, TrialResult]
    """Speed of captures with the default codec, raw, and without states, by the trial of `plan` on more samples."""

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return all(check.ok is not False for check in self.checks)


def selftest(
    *,
    model: tuple[str, str] | None = None,
    device: str = "auto",
    out: str | Path = ".",
    progress: Callable[[str], None] = lambda what: None,
) -> Selftest:
    """Check captures on this machine and measure their speed; with the tiny model this takes about two minutes.

    Parameters
    ----------
    model
        A model and its adapter, as in `CaptureConfig`; None for a tiny model made here.
    device
        Device on which the model runs.
    out
        Folder on the disk whose speed is measured; nothing stays in it.
    progress
        Called with the name of each stage as it begins.

    Raises
    ------
    ValueError
        If the device isn't here, or `out` is no folder.
    Exception
        Any error that `capture` raises for a model and its adapter.
    """
    where = require_device(parse_device(device))
    if not Path(out).is_dir():
        raise ValueError(f"`out` is {str(out)!r}, which isn't a folder; name one on the disk for runs")
    with tempfile.TemporaryDirectory(prefix=".lorascope-selftest-", dir=out) as name:
        folder = Path(name)
        write_text(folder / "sums.txt")
        source, adapter = model or map(str, write_model(folder))
        data, run = str(folder / "sums.txt"), str(folder / "run.zarr")
        config = CaptureConfig(
            model=source, adapter=(adapter,), data=(data,), out=run, device=device, score=False, changes="none"
        )
        require_inputs(config)
        checks = tuple(_checks(config, where, progress))
        progress(SELFTEST_STAGES[2])
        trials = time_captures(config, where)
    return Selftest(machine=_machine(where, out, source if model else None), checks=checks, trials=trials)


def time_captures(config: CaptureConfig, device: torch.device) -> dict[Way, TrialResult]:
    """Time trial captures with the default codec, raw, and without states; return way -> result."""
    loaded = load_on_meta(config.model)
    samples, _ = encode_data(read_data(config), loaded.tokenizer, config, model_facts(loaded.model).context_length)
    return run_trial(config, samples, device, ("raw", "default"), seconds=TRIAL_SECONDS)


def _checks(config: CaptureConfig, device: torch.device, progress: Callable[[str], None]) -> Iterator[Check]:
    """Run the checks one after the other, yield each result, and report the stages to `progress`."""
    progress(SELFTEST_STAGES[0])
    yield check_measuring(device)
    yield check_copies(device)
    progress(SELFTEST_STAGES[1])
    few = dataclasses.replace(config, js_share=1.0, window_tokens=128, limit=2)
    yield from check_capture(few, device)
    yield check_ranks(
        dataclasses.replace(few, device="auto"), torch.cuda.device_count() if device.type == "cuda" else 1
    )


def _machine(device: torch.device, out: str | Path, model: str | None) -> dict[str, str]:
    """Return this machine in words by heading: versions, device, cores, memory, disk and model."""
    described, cuda = device_description(device), device.type == "cuda"
    memory = f"{format_size(free_host_bytes() or 0)} of the host free"
    if cuda:
        memory += f", {format_size(torch.cuda.get_device_properties(device).total_memory)} on the device"
    return {
        "versions": ", ".join(f"{name} {version(name)}" for name in VERSIONS) + f", Python {platform.python_version()}",
        "device": f"{described['name']}{f' x {torch.cuda.device_count()}, CUDA {torch.version.cuda}' if cuda else ''}",
        "cores": f"{n_cores()}, torch uses {torch.get_num_threads()}",
        "memory": memory,
        "disk": f"`{out}`",
        "model": "a tiny one, float32" if model is None else Path(model).name,
    }


def write_model(folder: Path) -> tuple[Path, Path]:
    """Write a tiny random Llama with a byte tokenizer, and a LoRA adapter; return the folders of both."""
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    alphabet = [*special.values(), *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)  # type: ignore[no-untyped-call]  # its own
    shape: dict[str, Any] = {
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
    }
    shape |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(vocab_size=len(alphabet), max_position_embeddings=2048, **shape))
        model.save_pretrained(folder / "model")
        fast.save_pretrained(folder / "model")
        adapted: Any = get_peft_model(model, LoraConfig(r=RANK, target_modules=lora_targets(model)))
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter.data, std=0.02)
    adapted.save_pretrained(folder / "adapter", save_embedding_layers=False)
    return folder / "model", folder / "adapter"


def write_text(file: Path) -> None:
    """Write a plain text of sums, such as `1 and 1 make 2.`, with about 400,000 characters."""
    file.write_text(" ".join(f"{n} and {n % 97} make {n + n % 97}." for n in range(N_SUMS)))
