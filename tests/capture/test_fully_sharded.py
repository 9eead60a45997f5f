"""A model whose weights FSDP2 shards over processes that take different samples."""

from pathlib import Path
from typing import Any

import pytest


@pytest.mark.slow
def test_every_stage_with_unequal_numbers_of_passes_stores_what_one_process_does(
    content: Any, command: Any, tmp_path: Path
) -> None:
    """Four rows over three processes, and one of them is first to finish the answers, replies, texts ..."""
    (tmp_path / "prompts.txt").write_text("Name a metal.\nWhat is the answer?\nAsk a question, in four words.\n")
    options = ["--answer-tokens", "3", "--prompt", "main", "--prompt", "prompt3", "--replies", "prompts.txt"]
    options += ["--neutral", "20", "--ablate", "kinds", "--ablate-share", "0.5", "--measure-overhead"]
    for out, n_ranks, more in (("alone.zarr", 1, ()), ("sharded.zarr", 3, ("--fully-shard",))):
        done = command(out, n_ranks, *options, *more)
        assert done.returncode == 0, done.stderr[-3000:]
    assert content(tmp_path / "alone.zarr") == content(tmp_path / "sharded.zarr")
