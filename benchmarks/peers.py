"""One job done by lorascope, plain hooks and nnsight: `python benchmarks/peers.py` prints Markdown tables.

The job: base and LoRA-branch output of every wrapped layer of SmolLM2-135M to disk, over the same batches, by four
processes that take turns: bare forward passes (nothing stored), lorascope, forward hooks with `torch.save` a batch, and
nnsight with Zarr. nnsight has an environment of its own (`make .venv-peers/installed`). lorascope stores the branch as
its factor A x with B, from which the same numbers come.

There is a table of whole calls for each number of rows, and one of the time of a further row: the longest job minus the
shortest, without fixed costs.

The last table is what each output is worth afterwards, measured: bytes flipped and read again, the process killed
half way and started again, and the same job in bfloat16 against the outputs themselves.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from models import facts_text, smollm2
from rounds import print_table, ratios, spread, stored_bytes, take_turns, write_json

HERE = Path(__file__).parent
WINDOW = 512
BATCH = 1024
RANK = 16
NAMES = {
    "bare": "bare forward",
    "lorascope": "lorascope",
    "lorascope raw": "lorascope, codec raw",
    "hooks": "hooks + torch.save",
    "nnsight": "nnsight + Zarr",
}


class Peer:
    """One process that does one kind of job whenever it is asked."""

    def __init__(self, kind: str, python: str, work: Path) -> None:
        name, _, codec = kind.partition(" ")
        self.kind, self.out = kind, work / kind.replace(" ", "-")
        command = [python, str(HERE / "peer_jobs.py"), name, str(work)]
        environment = {**os.environ, "CODEC": codec or "default"}
        self._log = open(work / f"{self.out.name}.log", "w")  # noqa: SIM115 (as long as the process)
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, env=environment
        )

    def ask(self, n_batches: int, dtype: str = "float32") -> None:
        """Ask for the job into an empty place."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.resume(n_batches, dtype)

    def resume(self, n_batches: int, dtype: str = "float32") -> None:
        """Ask for the job over what lies in its folder already."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"out": str(self.out), "batches": n_batches, "dtype": dtype}) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, float]:
        """Seconds of the job that was asked for, once it is done; RuntimeError if the process ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            raise RuntimeError(f"{self.kind} ended with {self.process.returncode}: {self._last_words()}")
        return json.loads(line)

    def run(self, n_batches: int, dtype: str = "float32") -> dict[str, float]:
        """The job from nothing: seconds, also until everything is on the disk, and bytes."""
        self.ask(n_batches, dtype)
        took = self.answer()
        start = time.perf_counter()
        os.sync()  # only lorascope has flushed its files by then
        flushed = took["wall"] + time.perf_counter() - start
        return {**took, "flushed": flushed, "stored_bytes": stored_bytes(self.out) if self.out.exists() else 0}

    def time(self, n_batches: int) -> dict[str, float]:
        """The job from nothing, and nothing left of it: all of them together might not fit the disk."""
        took = self.run(n_batches)
        shutil.rmtree(self.out, ignore_errors=True)
        return took

    def kill(self) -> None:
        """SIGKILL."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        """Let the process end by itself."""
        if self.process.poll() is None and self.process.stdin is not None:
            self.process.stdin.close()
            self.process.wait(timeout=60)
        self._log.close()

    def _last_words(self) -> str:
        lines = Path(self._log.name).read_text().strip().splitlines()
        return lines[-1] if lines else "no word on standard error"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[6, 24], help="rows of 1024 tokens, one a batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--flips", type=int, default=20, help="bytes to flip in each output, one at a time")
    parser.add_argument("--peers-python", default=str(HERE.parent / ".venv-peers/bin/python"))
    parser.add_argument("--kinds", nargs="*", default=list(NAMES), choices=list(NAMES))
    parser.add_argument("--folder", type=Path, help="where outputs are written; a temporary folder if not given")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if "nnsight" in arguments.kinds and not Path(arguments.peers_python).exists():
        parser.error(f"{arguments.peers_python!r} isn't there; `make .venv-peers/installed` makes it")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        work = Path(name)
        prepare(work, max(arguments.rows))
        content = {
            "rows": arguments.rows,
            "time": measure_time(work, arguments),
            "afterwards": measure_afterwards(work, arguments),
        }
    write_json(arguments.json, content)


def prepare(work: Path, n_rows: int) -> None:
    """Model, adapter, text and batches, as files that every environment can read."""
    adapted = smollm2(work / "adapter", dtype="float32", rank=RANK)
    adapted.model.unload().save_pretrained(str(work / "model"))
    adapted.tokenizer.save_pretrained(str(work / "model"))
    text = facts_text(n_rows * BATCH * 6)
    (work / "text.txt").write_text(text)
    ids = np.asarray(adapted.tokenizer(text, add_special_tokens=False)["input_ids"][: n_rows * BATCH], np.int64)
    np.save(work / "batches.npy", ids.reshape(n_rows, BATCH // WINDOW, WINDOW))


def start(kind: str, work: Path, arguments: argparse.Namespace) -> Peer:
    return Peer(kind, arguments.peers_python if kind == "nnsight" else sys.executable, work)


def measure_time(work: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    peers = {kind: start(kind, work, arguments) for kind in arguments.kinds}
    by_rows: dict[int, dict[str, list[dict[str, float]]]] = {}
    try:
        for peer in peers.values():
            peer.time(1)  # warm
        for n_rows in sorted(arguments.rows):
            jobs = {kind: lambda peer=peer, n_rows=n_rows: peer.time(n_rows) for kind, peer in peers.items()}
            by_rows[n_rows] = take_turns(jobs, arguments.rounds)
    finally:
        for peer in peers.values():
            peer.close()
    for n_rows, results in by_rows.items():
        print_turns(f"{n_rows} rows of {BATCH} tokens, SmolLM2 float32, rank {RANK}", results)
    (fewest, few), (most, many) = min(by_rows.items()), max(by_rows.items())
    if most > fewest:
        further = {kind: [less(*both) for both in zip(many[kind], few[kind], strict=True)] for kind in many}
        print_turns(f"{most - fewest} further rows: what {most} take less what {fewest} do", further)
    return {str(n_rows): results for n_rows, results in by_rows.items()}


def less(took: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    return {name: value - other[name] for name, value in took.items()}


def print_turns(title: str, results: dict[str, list[dict[str, float]]]) -> None:
    """Each kind's seconds and bytes, and their ratios to the bare pass's and to those of plain hooks of its round."""
    rows = []
    for kind, found in results.items():
        walls, flushed = ([took[name] for took in found] for name in ("wall", "flushed"))
        shares = [ratios(walls, [took["wall"] for took in results["bare"]])]
        shares.append(ratios(flushed, [took["wall"] for took in results["bare"]]))
        shares.append(ratios(*([took["processor"] for took in of] for of in (found, results["bare"]))))
        if "hooks" in results:
            shares.append(ratios(flushed, [took["flushed"] for took in results["hooks"]]))
        size = f"{found[0]['stored_bytes'] / 1e9:.2f}"
        rows.append([NAMES[kind], *map(spread, (walls, *shares)), size])
    columns = ["", "s", "wall / bare", "until it is on the disk / bare", "processor / bare"]
    columns += ["until it is on the disk / hooks"] * ("hooks" in results) + ["GB on disk"]
    n_rounds = len(results["bare"])
    print_table(f"{title}, {n_rounds} rounds; median (smallest to largest)", columns, rows)


def measure_afterwards(work: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for kind in arguments.kinds:
        if kind == "bare":
            continue
        peer = start(kind, work, arguments)
        peer.run(1)
        noticed = flips_noticed(peer, arguments.flips)
        whole = peer.run(min(arguments.rows))
        content[kind] = {"flips noticed": noticed, **killed(peer, work, arguments, whole)}
        shutil.rmtree(peer.out, ignore_errors=True)
    for kind, found in exactness(work, arguments).items():
        content.setdefault(kind, {}).update(found)
    columns = list(dict.fromkeys(key for found in content.values() for key in found))
    print_table(
        f"What the output is worth: {arguments.flips} bytes flipped; killed half way and started again; bfloat16",
        ("", *columns),
        [[NAMES[kind], *(found.get(column, "") for column in columns)] for kind, found in content.items()],
    )
    return content


def flips_noticed(peer: Peer, n_flips: int) -> str:
    """How many single bytes, changed in the larger files one at a time, the format's own reader reports."""
    files = sorted((f for f in peer.out.rglob("*") if f.is_file() and f.stat().st_size > 4096), key=str)
    chance = random.Random(0)
    reader = "lorascope" if peer.kind.startswith("lorascope") else peer.kind
    noticed = 0
    for _ in range(n_flips):
        file = chance.choice(files)
        place = chance.randrange(file.stat().st_size)
        flip(file, place)
        found = subprocess.run(
            [sys.executable, str(HERE / "peer_read.py"), reader, str(peer.out), str(file)],
            capture_output=True,
            text=True,
        )
        noticed += found.returncode != 0
        flip(file, place)
    return f"{noticed} of {n_flips}"


def flip(file: Path, place: int) -> None:
    with open(file, "r+b") as handle:
        handle.seek(place)
        byte = handle.read(1)[0]
        handle.seek(place)
        handle.write(bytes([byte ^ 0x10]))


def killed(peer: Peer, work: Path, arguments: argparse.Namespace, whole: dict[str, Any]) -> dict[str, str]:
    """SIGKILL when half of its bytes lie there: what its own reader says of them, and the cost of a second start."""
    peer.ask(min(arguments.rows))
    began = time.monotonic()
    while time.monotonic() - began < whole["wall"] and bytes_now(peer.out) < whole["stored_bytes"] / 2:
        time.sleep(0.02)
    peer.kill()
    reader = "lorascope" if peer.kind.startswith("lorascope") else peer.kind
    command = [sys.executable, str(HERE / "peer_read.py"), reader, str(peer.out)]
    seen = subprocess.run(command, capture_output=True, text=True)
    torn = (seen.stdout.strip() or seen.stderr.strip() or "nothing").splitlines()[-1][:100]
    second = start(peer.kind, work, arguments)
    try:
        shutil.copytree(peer.out, work / "half", symlinks=True)
        second.run(1)  # warm
        shutil.rmtree(peer.out)
        (work / "half").rename(peer.out)
        if peer.kind in {"hooks", "nnsight"}:
            shutil.rmtree(peer.out)  # neither continues a stopped job: it starts over
        second.resume(min(arguments.rows))
        share = f"{second.answer()['wall'] / whole['wall']:.2f}"
    except RuntimeError as error:
        share = str(error)[:100]
    finally:
        second.close()
        shutil.rmtree(work / "half", ignore_errors=True)
    return {"killed half way, reads as": torn, "second start, of a whole run": share}


def bytes_now(folder: Path) -> int:
    """Bytes in a folder in which files come and go."""
    sizes = 0
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):
            sizes += file.stat().st_size if file.is_file() else 0
    return sizes


def exactness(work: Path, arguments: argparse.Namespace) -> dict[str, dict[str, str]]:
    """The job in bfloat16: bytes, and how far base and delta read back are from the layers' outputs."""
    results: dict[str, dict[str, str]] = {}
    for kind in arguments.kinds:
        if kind in {"bare", "lorascope raw"}:
            continue
        peer = start(kind, work, arguments)
        try:
            size = peer.run(1, "bfloat16")["stored_bytes"]
        finally:
            peer.close()
        reader = [sys.executable, str(HERE / "peer_read.py"), kind, str(peer.out), "--against", str(work)]
        found = subprocess.run(reader, capture_output=True, text=True)
        if found.returncode:
            raise RuntimeError(f"{kind} can't be read back: {found.stderr.strip().splitlines()[-1]}")
        results[kind] = {"bf16: MB a row": f"{size / 1e6:.0f}", **json.loads(found.stdout.strip().splitlines()[-1])}
        shutil.rmtree(peer.out)
    return results


if __name__ == "__main__":
    main()
