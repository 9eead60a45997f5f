"""Processes that join for a capture, or don't; ones that fail later are in test_failing_ranks."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ...tiny import save_model

JOINS = """
import faulthandler, os, signal, sys, time
from pathlib import Path
import torch
from lorascope.capture.errors import Interrupted
from lorascope.capture.models import watch
from lorascope.capture.models.ranks import join_ranks

faulthandler.dump_traceback_later(100, exit=True)  # whoever waits for ever

def stop(number, frame):
    raise KeyboardInterrupt

signal.signal(signal.SIGTERM, stop)
how, is_last = sys.argv[1], os.environ["RANK"] == "1"
watch.SILENCE = 3.0
if how == "killed":  # before the other one has looked
    watch.BEAT = 2.0
try:
    for number in range(2 if how == "twice" else 1):
        while how in ("absent", "killed") and is_last and not Path("waits").exists():
            time.sleep(0.2)
        if how == "absent" and is_last:
            time.sleep(1)
            os.kill(os.getpid(), signal.SIGKILL)
        Path("waits").touch()
        with join_ranks(torch.device("cpu")) as ranks:
            print(ranks.gather(10 * number + ranks.rank), flush=True)
            if how == "killed" and is_last:
                time.sleep(0.3)
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "stopped" and is_last:
                raise Interrupted(signal.SIGTERM, "")
            ranks.wait()
except BaseException as error:
    os.write(2, f"lorascope: error: {error}\\n".encode())
    time.sleep(4)  # torchrun stops the others only once it has ended
    os._exit(2)
"""
NODES = """
import os, sys
import torch
from lorascope.cli.main import main

torch.set_num_threads(1)
os.chdir("node" + os.environ["RANK"])
raise SystemExit(main(["capture", *sys.argv[1:]]))
"""
GOES_ON = "; committed rows stay, and the same command goes on"
OF_OTHERS = {
    "absent": "rank 1 of 2 didn't begin",
    "killed": "rank 1 of 2 ended without a word (killed, or out of memory)",
    "stopped": "rank 1 of 2 was stopped",
}


@pytest.mark.slow
@pytest.mark.parametrize("how", OF_OTHERS)
def test_the_other_one_names_a_process_that_fails_early(how: str, launch: Any, tmp_path: Path) -> None:
    """Killed before it joins or right after, or stopped by a signal of its own."""
    (tmp_path / "joins.py").write_text(JOINS)
    done = launch(2, "joins.py", how)
    assert done.returncode != 0
    lines = set(re.findall(r"^lorascope: error: (.*)$", done.stderr, re.MULTILINE))
    assert lines - {""} == {OF_OTHERS[how] + GOES_ON}, done.stderr[-3000:]


@pytest.mark.slow
def test_processes_join_again_for_another_capture(launch: Any, tmp_path: Path) -> None:
    (tmp_path / "joins.py").write_text(JOINS)
    done = launch(2, "joins.py", "twice")
    assert done.returncode == 0, done.stderr[-3000:]
    # Lines of two processes may run together.
    assert sorted(re.findall(r"\[.*?\]", done.stdout)) == ["[0, 1]", "[0, 1]", "[10, 11]", "[10, 11]"]


@pytest.mark.slow
@pytest.mark.parametrize(("file", "options"), [("text.txt", ("--generate", "3")), ("prompts.txt", ())])
def test_nodes_with_different_files_begin_no_run(
    file: str,
    options: Sequence[str],
    launch: Any,
    tiny_model: Any,
    tiny_tokenizer: Any,
    tiny_adapter: Path,
    tmp_path: Path,
) -> None:
    """Each rank works on half of the samples or prompts of its own file, and ranks exchange what the model wrote."""
    save_model(tmp_path / "model", tiny_model, tiny_tokenizer)
    for node in ("node0", "node1"):
        (tmp_path / node).mkdir()
        for name in ("text.txt", "prompts.txt"):
            (tmp_path / node / name).write_text(f"The answer {node if name == file else ''}?\nThe fourth question\n")
    (tmp_path / "nodes.py").write_text(NODES)
    words = ["--model", "../model", "--adapter", str(tiny_adapter), "--data", "text.txt", "--out", "../run.zarr"]
    done = launch(2, "nodes.py", *words, "--window-tokens", "9", "--replies", "prompts.txt", *options)
    assert done.returncode != 0
    lines = re.findall(r"^lorascope: error: (.*)$", done.stderr, re.MULTILINE)
    assert lines
    assert all(line.startswith("rank 1 doesn't capture what rank 0 does: data: ") for line in lines), lines
    assert not (tmp_path / "run.zarr").exists()
