"""What README's commands take: `python benchmarks/commands.py` prints wall and processor seconds as a Markdown table.

Each command runs as a user starts it, in a process of its own, on the demo's run (`make demo` first): alone, or with as
many other busy processes as the machine has cores (`--busy`). `--lorascope` names another version's command, so that
two can be compared on one machine.
"""

import argparse
import os
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rounds import Took, print_table, write_json

ADAPTED = "--model {demo}/model.gguf --adapter {demo}/adapter"
MODEL = f"{ADAPTED} --data {{demo}}/facts.test.jsonl"
COMMANDS = {
    "info": "info {demo}",
    "miub --group-by kind": "miub {demo} --group-by kind",
    "miub --group-by text": "miub {demo} --group-by text",
    "adapter": "adapter {demo}/adapter",
    "verify": "verify {demo}",
    "explain": "explain {demo}",
    "report": "report {demo} --out {out}/report.html",
    "report, again": "report {demo} --out {out}/again.html",
    "plan": f"plan {MODEL} --out {{out}}/planned",
    "plan --no-probe": f"plan {MODEL} --out {{out}}/planned --no-probe",
    "capture of 6 questions": f"capture {MODEL} --limit 6 --out {{out}}/six",
    "capture of 20 questions": f"capture {MODEL} --limit 20 --out {{out}}/twenty",
    "report of two runs": "report {demo} {out}/twenty --out {out}/compared.html",
    "miub of two runs": "miub {demo} {out}/twenty --group-by run,layer",
    "capture of an empty file": f"capture {ADAPTED} --data {{out}}/no.jsonl --out {{out}}/no",
    "capture on an absent GPU": f"capture {MODEL} --device cuda --out {{out}}/no",
    "mi of 6 components": "mi {demo} --component '*.1[05].*.[qv]_proj' --component '*.1[05].mlp.down_proj'",
    "mi --quick": "mi {demo} --quick",
    "fit": "fit paper --where model=Phi3 --groups dataset --offsets sweep",
    "compare": "compare paper --collapsed-below 0.25",
    "finetune, 10 steps of 8": "finetune --model {demo}/model.gguf --data {demo}/facts.train.jsonl --rank 2 "
    "--batch-size 8 --max-steps 10 --out {out}/rank2",
}
REFUSED = ("capture of an empty file", "capture on an absent GPU")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"))
    parser.add_argument("--lorascope", default=str(Path(sys.executable).with_name("lorascope")))
    parser.add_argument("--busy", action="store_true", help="with as many busy processes as cores")
    parser.add_argument("--only", nargs="*", choices=list(COMMANDS), default=list(COMMANDS))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    took: dict[str, Took] = {}
    with tempfile.TemporaryDirectory() as folder, busy_processes((os.cpu_count() or 1) if arguments.busy else 0):
        demo, out = Path(folder, "demo"), Path(folder, "out")
        shutil.copytree(arguments.demo, demo, symlinks=True)
        out.mkdir()
        (out / "no.jsonl").touch()
        for name in arguments.only:
            words = shlex.split(COMMANDS[name].format(demo=demo, out=out))
            took[name] = call([arguments.lorascope, *words], code=2 if name in REFUSED else 0)
            print(f"{name}: {took[name].wall:.1f} s", file=sys.stderr, flush=True)
    rows = [(f"`{name}`", f"{seconds.wall:.1f}", f"{seconds.processor:.1f}") for name, seconds in took.items()]
    title = "with busy processes" if arguments.busy else "alone"
    print_table(title, ("command", "wall, s", "processor, s"), rows)
    write_json(arguments.json, {"seconds": took})


def call(words: Sequence[str], *, code: int) -> Took:
    """Seconds of a command, whose exit code must be `code`."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != code:
        raise SystemExit(f"{shlex.join(words)} ended with {done.returncode}:\n{done.stderr}")
    return Took(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


@contextmanager
def busy_processes(n: int) -> Iterator[None]:
    """Keep `n` cores busy within the block."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
