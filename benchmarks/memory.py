"""Host memory while a long run is written: `python benchmarks/memory.py` prints a table and draws `runs/memory.png`.

A small model with wide layers and random weights captures 10 GB three times, each in a process of its own, whose
resident memory is read twenty times a second from outside: with the disk as it is; with a writer that is slow in every
row; and with one that now and then stands still. The slow writers are lorascope's own with a sleep after each row.
Whatever the queue's other end does, the forward pass waits: the curve must be flat.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from rounds import print_table, stored_bytes, write_json

WRITERS = {
    "disk": "the disk as it is",
    "slow": "every row takes {slow:g} s longer",
    "stalls": "every 8th row takes {stall:g} s longer",
}
FEATURES = 8 * (4 * 256 + 2 * 4096 + 256)
"""Outputs of all wrapped layers of the model, by token."""
SECONDS = 0.05


class Course(NamedTuple):
    """One capture, seen from outside."""

    seconds: list[float]
    resident: list[int]
    """Bytes of resident memory at these seconds."""
    captured: list[tuple[float, int]]
    """(second, tokens done) after each batch."""
    wall: float
    stored_bytes: int
    measured: dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=10.0, help="size of the arrays in memory")
    parser.add_argument("--slow", type=float, default=2.0)
    parser.add_argument("--stall", type=float, default=20.0)
    parser.add_argument("--queue-bytes", type=int, help="lorascope's default if not given")
    parser.add_argument("--writers", nargs="*", default=list(WRITERS), choices=list(WRITERS))
    parser.add_argument("--folder", type=Path, help="where stores are written; a temporary folder if not given")
    parser.add_argument("--picture", type=Path, default=Path("runs/memory.png"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        folder, writer, n_tokens, queue_bytes = arguments.child
        capture_as_child(Path(folder), writer, int(n_tokens), int(queue_bytes), arguments)
        return
    n_tokens = round(arguments.gigabytes * 1e9 / (4 * FEATURES) / 1024) * 1024
    courses = {}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for writer in arguments.writers:
            courses[writer] = observe(Path(folder), writer, n_tokens, arguments)
    print_courses(courses, n_tokens, arguments)
    if arguments.picture:
        draw(courses, n_tokens, arguments)
    write_json(arguments.json, {"n_tokens": n_tokens, **{name: course._asdict() for name, course in courses.items()}})


def observe(folder: Path, writer: str, n_tokens: int, arguments: argparse.Namespace) -> Course:
    """Run one capture and watch its memory."""
    options = ["--slow", str(arguments.slow), "--stall", str(arguments.stall)]
    command = [sys.executable, __file__, *options, "--child", str(folder / writer), writer, str(n_tokens)]
    process = subprocess.Popen([*command, str(arguments.queue_bytes or 0)], stdout=subprocess.PIPE, text=True)
    seconds: list[float] = []
    resident: list[int] = []

    def sample() -> None:
        while process.poll() is None:
            if n_bytes := status_bytes(process.pid, "VmRSS"):
                seconds.append(time.time())
                resident.append(n_bytes)
            time.sleep(SECONDS)

    sampler = threading.Thread(target=sample)
    sampler.start()
    assert process.stdout is not None
    said = [json.loads(line) for line in process.stdout]
    sampler.join()
    if process.wait():
        raise RuntimeError(f"the capture with writer {writer!r} ended with {process.returncode}")
    began, end = said[0]["began"], said[-1]
    shutil.rmtree(folder / writer)
    captured = [(entry["at"] - began, entry["done"]) for entry in said if "done" in entry]
    sampled = [at - began for at in seconds]
    return Course(sampled, resident, captured, end["ended"] - began, end["bytes"], end["measured"])


def capture_as_child(folder: Path, writer: str, n_tokens: int, queue_bytes: int, arguments: argparse.Namespace) -> None:
    """One capture; says on standard output when it begins, how far it is, and what it measured."""
    from models import adapt, byte_tokenizer, facts_text, random_model
    from transformers import LlamaConfig

    from lorascope.capture import CaptureConfig, capture

    import torch  # isort: skip

    folder.mkdir()
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=4096,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    model = adapt(random_model(config, dtype=torch.float32), folder / "adapter", rank=8)
    (folder / "facts.txt").write_text(facts_text(n_tokens))
    slow_down(writer, arguments)
    print(json.dumps({"began": time.time()}), flush=True)
    run = capture(
        CaptureConfig(
            score=False,
            changes="none",
            model="random",
            adapter=(str(folder / "adapter"),),
            data=(str(folder / "facts.txt"),),
            out=str(folder / "run.zarr"),
            **({"queue": str(queue_bytes)} if queue_bytes else {}),
        ),
        model=model,
        tokenizer=tokenizer,
        progress=say_progress,
    )
    measured = {key: value for key, value in run.attributes["measured"].items() if not isinstance(value, dict)}
    n_bytes = stored_bytes(folder / "run.zarr")
    print(json.dumps({"ended": time.time(), "bytes": n_bytes, "measured": measured}), flush=True)


def say_progress(progress: Any) -> None:
    if progress.stage == "capture":
        print(json.dumps({"at": time.time(), "done": progress.done}), flush=True)


def slow_down(writer: str, arguments: argparse.Namespace) -> None:
    """Let lorascope's writer sleep after a row."""
    from lorascope.stores import RunWriter

    sleeps: dict[str, Callable[[int], float]] = {
        "disk": lambda row: 0.0,
        "slow": lambda row: arguments.slow,
        "stalls": lambda row: arguments.stall if row % 8 == 7 else 0.0,
    }
    write_row: Any = RunWriter.write_row

    def write_slowly(self: RunWriter, row: int, blocks: Any) -> Any:
        written = write_row(self, row, blocks)
        time.sleep(sleeps[writer](row))
        return written

    RunWriter.write_row = write_slowly  # type: ignore[method-assign]


def status_bytes(pid: int | str, name: str) -> int:
    """An entry of a process's status, such as `VmRSS` or `VmHWM`, in bytes; 0 once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)


def part(course: Course, low: float, high: float) -> list[int]:
    """Resident bytes while these shares of the tokens were captured."""
    n_tokens = course.captured[-1][1]
    begin = next(at for at, done in course.captured if done >= low * n_tokens)
    end = next(at for at, done in course.captured if done >= high * n_tokens)
    return [n_bytes for at, n_bytes in zip(course.seconds, course.resident, strict=True) if begin <= at <= end] or [0]


def print_courses(courses: dict[str, Course], n_tokens: int, arguments: argparse.Namespace) -> None:
    rows = []
    for writer, course in courses.items():
        before = max((n for at, n in zip(course.seconds, course.resident, strict=True) if at <= 0), default=0)
        thirds = [part(course, low / 10, high / 10) for low, high in ((1, 4), (4, 7), (7, 10))]
        rows.append(
            [
                WRITERS[writer].format(**vars(arguments)),
                f"{course.wall:.0f}",
                f"{course.stored_bytes / 1e9:.2f}",
                f"{before / 1e9:.2f}",
                *(f"{median(third) / 1e9:.2f}" for third in thirds),
                f"{max(course.resident) / 1e9:.2f}",
            ]
        )
    columns = ("writer", "s", "GB stored", "before", "10 to 40 %", "40 to 70 %", "70 to 100 %", "peak")
    print_table(
        f"Resident memory in GB while {n_tokens} tokens, {n_tokens * FEATURES * 4 / 1e9:.1f} GB of base, are captured:"
        " before the call, medians over parts of the run, peak",
        columns,
        rows,
    )
    for writer, course in courses.items():
        announced = {key: value for key, value in course.measured.items() if "bytes" in key}
        print(f"{writer}: {json.dumps(announced)}")


def draw(courses: dict[str, Course], n_tokens: int, arguments: argparse.Namespace) -> None:
    """Memory above, GB captured below, one column a writer."""
    import plotly.graph_objects as go
    from look import render
    from plotly.subplots import make_subplots

    from lorascope.analyze.figures.theme import INK, apply_theme

    titles = [WRITERS[writer].format(**vars(arguments)) for writer in courses]
    figure = make_subplots(2, len(courses), shared_xaxes=True, shared_yaxes=True, column_titles=titles)
    for column, course in enumerate(courses.values(), 1):
        memory = [n_bytes / 1e9 for n_bytes in course.resident]
        figure.add_trace(go.Scatter(x=course.seconds, y=memory, mode="lines", line={"color": INK}), 1, column)
        at, done = zip(*course.captured, strict=True)
        gigabytes = [n * FEATURES * 4 / 1e9 for n in done]
        figure.add_trace(go.Scatter(x=at, y=gigabytes, mode="lines", line={"color": "#555"}), 2, column)
        figure.update_xaxes(range=[0, course.wall], row=1, col=column)
        figure.update_xaxes(range=[0, course.wall], title_text="s", row=2, col=column)
    apply_theme(figure, height=560)
    top = 1.15 * max(max(course.resident) for course in courses.values()) / 1e9
    figure.update_yaxes(rangemode="tozero")
    figure.update_yaxes(range=[0, top], row=1)
    figure.update_yaxes(range=[0, 1.05 * n_tokens * FEATURES * 4 / 1e9], row=2)
    figure.update_yaxes(title_text="resident memory, GB", row=1, col=1)
    figure.update_yaxes(title_text="captured, GB of base", row=2, col=1)
    arguments.picture.parent.mkdir(parents=True, exist_ok=True)
    page = arguments.picture.with_suffix(".html")
    figure.write_html(page, config={"displayModeBar": False})
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        print(f"\n{page} (no Chromium on the path that would make a picture of it)")
        return
    render(browser, page, f"--screenshot={arguments.picture.resolve()}", "--window-size=1200,580")
    print(f"\n{arguments.picture}")


if __name__ == "__main__":
    main()
