"""Chat templates in a process with limits: what sound ones cost, and what hostile ones come to.

`python benchmarks/templates.py` encodes conversations by four published templates. It does so with their texts
rendered in this process, by the same code, and in a process of its own; the start of that process is a column by
itself. Processor seconds are those of both processes, and depend little on what else the machine does. Then it gives
60 templates that were made to take all memory or time (`tests/hostile_templates.py`) to `encode_items`, with the
usual limits. One that is encoded, takes more than 60 s, grows its process by more than the limit, or is refused in
more than one line is a failure, and the exit code is 1.
"""

import argparse
import os
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from rounds import print_table, ratios, spread, take_turns, write_json

from lorascope.capture.samples import chats
from lorascope.capture.samples.chats import render_process
from lorascope.capture.samples.encode import encode_items
from lorascope.capture.samples.render_texts import render_texts
from lorascope.capture.samples.sources import read_items
from lorascope.stores.confined import ConfinedProcess

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.chats import CHAT_TOKENIZERS, chat_tokenizer, conversations
from tests.hostile_templates import ALL, HOSTILE

LIMIT_SECONDS = 60.0
OPTIONS: dict[str, Any] = {"max_length": 100_000, "window_tokens": 16}


class InThisProcess:
    """Stands in for a `ConfinedProcess`, and renders where it is called."""

    def run(self, task: Any) -> Iterator[Any]:
        """Return the texts of a task's chats."""
        return iter(render_texts(task))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chats", type=int, default=5000, help="conversations that are encoded by a sound template")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--hostile", type=int, default=len(HOSTILE), help="how many hostile templates are tried")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    sound = measure_sound(arguments.chats, arguments.rounds)
    outcomes = [try_hostile(name) for name in list(HOSTILE)[: arguments.hostile]]
    print_table(
        f"{len(outcomes)} hostile templates, limits of {chats.MAX_SECONDS:g} s and {chats.MAX_BYTES / 2**30:g} GiB",
        ["template", "s", "MiB of its process", "answer"],
        [[name, f"{seconds:.1f}", n_bytes // 2**20, words] for name, seconds, n_bytes, words, _ in outcomes],
    )
    failed = [name for name, *_, is_failure in outcomes if is_failure]
    print(f"failed: {', '.join(failed) or 'none'}")
    write_json(arguments.json, {"sound": sound, "hostile": outcomes})
    sys.exit(bool(failed))


def measure_sound(n_chats: int, n_rounds: int) -> dict[str, Any]:
    """Processor seconds of encoding by each published template, both ways, and seconds with the start of a process."""
    items = read_items([{"messages": messages} for messages in conversations(n_chats)])
    rows, times = [], {}
    for name in CHAT_TOKENIZERS:
        tokenizer = chat_tokenizer(name)
        with render_process() as process:
            encode_items(items[:1], tokenizer, **OPTIONS, renderer=process)  # starts it
            jobs = {
                "in this process": partial(processor_seconds, items, tokenizer, InThisProcess()),
                "in its own": partial(processor_seconds, items, tokenizer, process),
                "start": partial(seconds_with_start, items[:1], tokenizer),
            }
            times[name] = measured = take_turns(jobs, n_rounds)
        ratio = spread(ratios(measured["in its own"], measured["in this process"]))
        rows.append([name, *(spread(measured[way]) for way in jobs), ratio])
    columns = ["template", "in this process", "in its own", "start, one chat: wall seconds", "ratio without start"]
    print_table(f"{n_chats} conversations, encoded: processor seconds", columns, rows)
    return times


def processor_seconds(items: Any, tokenizer: Any, process: Any) -> float:
    """Processor seconds of encoding, in this process and in that of the templates."""
    began = time.process_time() + seconds_of_child(process)
    encode_items(items, tokenizer, **OPTIONS, renderer=process)
    return time.process_time() + seconds_of_child(process) - began


def seconds_of_child(process: Any) -> float:
    """Processor seconds of a process that renders templates, so far; 0 if they are rendered in this one."""
    if isinstance(process, InThisProcess):
        return 0.0
    fields = Path(f"/proc/{process._process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def seconds_with_start(items: Any, tokenizer: Any) -> float:
    """Seconds of encoding that includes the start of a process."""
    began = time.perf_counter()
    encode_items(items, tokenizer, **OPTIONS)
    return time.perf_counter() - began


def try_hostile(name: str) -> tuple[str, float, int, str, bool]:
    """(name, seconds, largest memory of its process, answer, whether that is a failure) of a hostile template."""
    tokenizer = chat_tokenizer("chatml")
    tokenizer.chat_template = HOSTILE[name] + ALL
    items = read_items([{"messages": messages} for messages in conversations(3)])
    n_bytes, words = [0], "encoded"
    began = time.perf_counter()
    with render_process() as process:
        over = threading.Event()
        watch = threading.Thread(target=watch_memory, args=(process, n_bytes, over))
        watch.start()
        try:
            encode_items(items, tokenizer, **OPTIONS, renderer=process)
        except ValueError as error:
            words = str(error)
        finally:
            over.set()
            watch.join()
    seconds = time.perf_counter() - began
    limit = chats.MAX_BYTES + 2**28  # which it takes before the first template, at most
    is_failure = words == "encoded" or seconds > LIMIT_SECONDS or n_bytes[0] > limit or "\n" in words
    shown = words.partition(": ")[2].partition(";")[0].replace("|", "/")
    return name, seconds, n_bytes[0], shown[:120], is_failure


def watch_memory(process: ConfinedProcess, n_bytes: list[int], over: threading.Event) -> None:
    """Keep the largest resident memory of the process until it is over; 0 on other systems than Linux."""
    while not over.wait(0.005):
        own = process._process
        status = Path(f"/proc/{own.pid}/status") if own is not None else Path("missing")
        try:
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        except (FileNotFoundError, ProcessLookupError):
            continue
        if "VmHWM" in lines:
            n_bytes[0] = max(n_bytes[0], int(lines["VmHWM"].split()[0]) * 1024)


if __name__ == "__main__":
    main()
