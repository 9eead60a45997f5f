"""The page of `lorascope view` in a real Chromium: `python benchmarks/view.py` prints Markdown tables.

Two runs of random states at SmolLM2's widths, 210 components. `large`, of a million tokens, keeps states of four rows
(those of all would take 480 GB), so that the page reads the capture's js, 1024 tokens a chunk. `whole` keeps the states
of all of its four rows, so that the page reads the view index's js, 256 tokens a chunk, and has components of 4096 and
14,336 features. The server is `lorascope view`, a process of its own. Times are taken in the page (`view_marks.js`):
from the navigation's start, or the input's own time stamp, to when the page's thread has painted the thing. Bytes
are Resource Timing's, headers included. Cold is a new browser context, whose cache is empty; the run's files are in the
machine's memory.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from chromium import WIDTH, Chromium, Tab, chromium
from memory import status_bytes
from rounds import print_table, spread, stored_bytes, write_json
from view_runs import N_LAYERS, WIDTHS, write_run

from lorascope.analyze.viewing.index import CHUNK_TOKENS, view_index
from lorascope.stores import Run, open_run
from lorascope.stores.format.spec import ROW_TOKENS

MARKS = (Path(__file__).parent / "view_marks.js").read_text()
N_TOKENS, STATE_ROWS, WHOLE_TOKENS = 1_000_000, (0, 300, 600, 900), 4096
PATHS = [f"model.layers.{layer}.{kind}" for layer in range(N_LAYERS) for kind in WIDTHS]
WIDE = {"model.layers.0.mlp.gate_proj": 14_336, "model.layers.0.mlp.down_proj": 4096}
BY_WIDTH = {192: "self_attn.k_proj", 576: "self_attn.q_proj", 1536: "mlp.up_proj", 4096: "mlp.down_proj"}
BY_WIDTH = {f"{width}": f"model.layers.0.{kind}" for width, kind in {**BY_WIDTH, 14_336: "mlp.gate_proj"}.items()}
ROW_PIXELS = 52
"""Height of a sample in the list."""
N_PICKED = 5
"""Samples that are clicked in one context."""
Opener = Callable[[], AbstractContextManager[Callable[[], "Shown"]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="new browser contexts for each measurement")
    parser.add_argument("--visits", type=int, default=200, help="samples, and cells, after which memory is measured")
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--runs", type=Path, help="where the runs are written, or lie; a temporary folder if not given")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = arguments.runs or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        runs = {name: prepared(folder / f"{name}.zarr") for name in ("large", "whole")}
        urls = {name: stack.enter_context(served(folder / f"{name}.zarr")) for name in runs}
        browser = stack.enter_context(chromium())
        version = browser.send("Browser.getVersion")["product"]
        print(f"{version}, headless, drawing by the processor, {WIDTH} pixels wide")
        bench = Bench(browser, runs, urls, arguments.rounds, arguments.visits)
        write_json(arguments.json, {part: PARTS[part](bench) for part in arguments.parts})


class Bench(NamedTuple):
    """What is measured, and how often."""

    browser: Chromium
    runs: Mapping[str, Run]
    urls: Mapping[str, str]
    n_rounds: int
    n_visits: int

    def opener(self, name: str) -> Opener:
        """Return a function that makes new browser contexts, which open the page of the named run."""

        @contextmanager
        def opened() -> Iterator[Callable[[], Shown]]:
            context = self.browser.send("Target.createBrowserContext")["browserContextId"]
            try:
                yield partial(Shown, self.browser, context, self.urls[name], self.runs[name])
            finally:
                self.browser.send("Target.disposeBrowserContext", browserContextId=context)

        return opened


def prepared(path: Path) -> Run:
    """The run and its view index, made where they aren't there."""
    if not path.exists():
        print(f"writing {path.name}", file=sys.stderr, flush=True)
        if path.stem == "large":
            write_run(path, n_tokens=N_TOKENS, state_rows=STATE_ROWS)
        else:
            write_run(path, n_tokens=WHOLE_TOKENS, state_rows=None, wide=WIDE)
    index, run = view_index(path), open_run(path)
    sizes = [stored_bytes(store) / 1e6 for store in (path, index)]
    print(
        f"`{path.stem}`: {run.n_tokens} tokens of {len(run.samples['id'])} samples, {len(PATHS)} components; ", end=""
    )
    print(f"{sizes[0]:.0f} MB, its view index {sizes[1]:.1f} MB")
    return run


@contextmanager
def served(path: Path) -> Iterator[str]:
    """Address of the page about a run, from `lorascope view` in a process of its own."""
    command = [sys.executable, "-m", "lorascope", "view", str(path), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found is not None
        try:
            yield found[0]
        finally:
            process.terminate()


class Done(NamedTuple):
    """One action: what was drawn when, in ms, and what was read."""

    marks: dict[str, float]
    reads: list[tuple[str, float, int]]
    """Key, ms from the start to the answer's end, bytes; 0 bytes came from the browser's cache."""


class Shown:
    """A page that shows a run, driven as a user would."""

    def __init__(self, browser: Chromium, context: str, url: str, run: Run) -> None:
        self.tab = Tab(browser, context, MARKS)
        self.run, self.url, self.at = run, url, 0
        self.tab.send("Page.navigate", url=url)
        self.started = self._done()

    def act(self, names: Sequence[str], action: Callable[[], object]) -> Done:
        """Do something, and wait until the named parts are drawn again."""
        self._settle()
        self.tab.js(f"bench.arm({json.dumps(names)})")
        action()
        return self._done()

    def sample(self, sample: int) -> Done:
        """A click on a sample in the list, until its ribbon is drawn."""
        self.tab.js(f"document.querySelector('.box').scrollTop = {ROW_PIXELS * sample}")
        self._settle()
        self.at = sample
        return self.act(("sentence", "ribbon"), lambda: self.tab.click(f"#sample-{sample}"))

    def cell(self, path: str) -> Done:
        """A click on a component in the map, until its numbers, and then the contexts of a direction, are drawn."""
        layer, kind = divmod(PATHS.index(path), len(WIDTHS))
        where = (kind + 0.5) / len(WIDTHS), (layer + 0.5) / N_LAYERS
        return self.act(self._parts, lambda: self.tab.click(".map canvas", *where))

    def token(self, place: int) -> Done:
        """A click on a token of the sentence, while a component is open."""
        return self.act(self._parts, lambda: self.tab.click(f".t[data-at='{place}']"))

    def search(self, words: str) -> Done:
        """Words put into the field of the search, until the samples that hold them are listed."""
        self.tab.js("document.querySelector('#list [type=search]').select()")
        return self.act(("found",), lambda: self.tab.send("Input.insertText", text=words))

    def sort(self, by: str) -> Done:
        """Another order of the list."""
        field = "document.querySelector('#list select')"
        return self.act(
            ("rows",), lambda: self.tab.js(f"{field}.value = '{by}', {field}.dispatchEvent(new Event('change'))")
        )

    def close_cell(self) -> None:
        """A click on the sign that closes the component."""
        self.tab.click(".cell [aria-label=Close]")
        self._settle()

    @property
    def _parts(self) -> tuple[str, ...]:
        row = int(self.run.samples["token_start"][self.at]) // ROW_TOKENS
        return ("numbers", "contexts") if self.run.state_rows[row] else ("numbers",)

    def _settle(self) -> None:
        """Let a frame pass, and what is to be done in it."""
        self.tab.js("new Promise((done) => requestAnimationFrame(() => requestIdleCallback(() => done())))")

    def _done(self) -> Done:
        self.tab.js("bench.finished")
        alerts = self.tab.js("[...document.querySelectorAll('.alert')].map((each) => each.textContent)")
        assert not alerts, alerts
        marks, start, requests = self.tab.js("[bench.marks, bench.start, bench.requests()]")
        reads = [(name.removeprefix(self.url), end - start, n) for name, begin, end, n in requests if begin >= start]
        return Done(marks, reads)


def measure_start(bench: Bench, name: str) -> dict[str, list[Done]]:
    """The page opened in a browser that just started, in a new context of one that runs, and again in the same one."""
    found = defaultdict(list)
    for _ in range(bench.n_rounds):
        with chromium() as browser, bench._replace(browser=browser).opener(name)() as show:
            found["of a new browser, cold"].append(show().started)
        with bench.opener(name)() as show:
            for case in ("cold", "warm"):
                shown = show()
                found[case].append(shown.started)
                shown.tab.close()
    return found


def measure_samples(open_context: Opener, n: int, js_tokens: int) -> dict[str, list[Done]]:
    """Clicks on samples whose js wasn't read yet, again on the same ones, and in a page opened again."""
    found, chance = defaultdict(list), random.Random(0)
    for _ in range(n):
        with open_context() as show:
            shown = show()
            chunks, picked = _chunks(shown.run, 0, js_tokens), []
            n_samples = len(shown.run.samples["id"])
            for sample in chance.sample(range(n_samples), min(n_samples, 200)):
                mine = _chunks(shown.run, sample, js_tokens)
                if len(picked) < N_PICKED and not mine & chunks:
                    picked, chunks = [*picked, sample], chunks | mine
            for sample in picked:
                done = shown.sample(sample)
                read = {int(key.rpartition("/c.")[2].split(".")[0]) for key, _, _ in done.reads if "/js/" in key}
                assert read == _chunks(shown.run, sample, js_tokens), (sample, read)
                found["chunks not read before"].append(done)
            found["looked at before"] += [shown.sample(sample) for sample in [*picked, 0][::-1]][1:]
            shown = show()
            found["page opened again"] += [shown.sample(sample) for sample in picked]
        with open_context() as show:
            shown = show()
            longest = np.argsort(np.subtract(*_places(shown.run)))[:N_PICKED]
            found["longest, not read before"] += [shown.sample(int(sample)) for sample in longest if sample]
    return found


def measure_cells(open_context: Opener, n: int, paths: Mapping[str, str]) -> dict[tuple[str, str], list[Done]]:
    """Clicks on components in rows whose states weren't read yet; then on other tokens while the component is open."""
    found = defaultdict(list)
    for _ in range(n):
        with open_context() as show:
            shown = show()
            for row in np.flatnonzero(shown.run.state_rows)[:4]:
                sample = _within(shown.run, int(row))
                shown.sample(sample)
                for name, path in paths.items():
                    found[name, "chunks not read before"].append(shown.cell(path))
                    found[name, "another token"] += [shown.token(place) for place in (3, 7)]
                    shown.close_cell()
    return found


def measure_without_states(open_context: Opener, n: int) -> list[Done]:
    """Clicks on a component where the row keeps no states."""
    found = []
    for _ in range(n):
        with open_context() as show:
            shown = show()
            for row in np.flatnonzero(~shown.run.state_rows)[10:200:20]:
                shown.sample(_within(shown.run, int(row)))
                found.append(shown.cell(PATHS[0]))
                shown.close_cell()
    return found


def measure_list(open_context: Opener, n: int) -> dict[str, list[Done]]:
    """Searching in the text of all samples, again for another word, and sorting."""
    found = defaultdict(list)
    for _ in range(n):
        with open_context() as show:
            shown = show()
            first, second = _rare(shown.run)
            found["sort"] += [shown.sort(by) for by in ("-miub", "ce", "outcome")]
            found["search, texts not read before"].append(shown.search(first))
            found["search again"].append(shown.search(second))
    return found


def measure_memory(open_context: Opener, n: int) -> list[tuple[str, dict[str, int]]]:
    """Bytes of the page's process: an empty page, the first sample, after n samples, and after n cells."""
    chance, found = random.Random(1), []
    with open_context() as show:
        shown = show()
        run = shown.run

        def note(what: str) -> None:
            found.append((what, process_bytes(shown.tab)))

        shown.tab.send("Page.navigate", url="about:blank")
        note("an empty page")
        shown.tab.close()
        shown = show()
        note("the first sample")
        for sample in chance.sample(range(1, len(run.samples["id"])), n):
            shown.sample(sample)
        note(f"after {n} samples")
        cells = [(int(row), path) for row in np.flatnonzero(run.state_rows) for path in PATHS]
        for row, path in sorted(chance.sample(cells, n)):
            if shown.at != (sample := _within(run, row)):
                shown.sample(sample)
            shown.cell(path)
            shown.close_cell()
        note(f"and after {n} cells")
        shown.search(_rare(run)[0])
        note("and after a search")
        shown.tab.send("HeapProfiler.collectGarbage")
        note("and without garbage")
    return found


def process_bytes(tab: Tab) -> dict[str, int]:
    """Memory of the process that draws a page: of the renderers, the one that is busy when the page is."""

    def seconds() -> dict[int, float]:
        every = tab.browser.send("SystemInfo.getProcessInfo")["processInfo"]
        return {each["id"]: each["cpuTime"] for each in every if each["type"] == "renderer"}

    before = seconds()
    tab.js("for (const start = performance.now(); performance.now() < start + 400;);")
    pid, busy = max(((pid, now - before.get(pid, 0)) for pid, now in seconds().items()), key=lambda each: each[1])
    assert busy > 0.1, busy
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    pss = next(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:"))
    return {"pss": pss, "rss": status_bytes(pid, "VmRSS"), "peak": status_bytes(pid, "VmHWM")}


def _places(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Of each sample, its first token and its last."""
    return run.samples["token_start"].values, run.samples["token_stop"].values - 1


def _chunks(run: Run, sample: int, tokens: int) -> set[int]:
    """Chunks, each of `tokens` tokens, that contain a sample's tokens."""
    first, last = (int(each[sample]) // tokens for each in _places(run))
    return set(range(first, last + 1))


def _within(run: Run, row: int) -> int:
    """The last sample that lies wholly in a row."""
    first, last = (each // ROW_TOKENS for each in _places(run))
    return int(np.flatnonzero((first == row) & (last == row))[-1])


def _rare(run: Run) -> list[str]:
    """Two long words of the run's text."""
    return [text.strip() for text in run.tokens["text"][:10_000].values if len(text) > 10][:2]


def start(bench: Bench) -> Any:
    found = {name: measure_start(bench, name) for name in bench.runs}
    rows = []
    for name, cases in found.items():
        for case, done in cases.items():
            until = [[n for _, end, n in one.reads if end <= one.marks["sentence"]] for one in done]
            rows.append(
                [
                    name,
                    case,
                    times(done, "sentence"),
                    times(done, "presented"),
                    megabytes(map(sum, until)),
                    str(len(until[0])),
                ]
            )
    columns = ("run", "context", "first sentence painted, ms", "on the screen, ms", "MB until then", "requests")
    print_table("Start, from the navigation on; bars: 1500 ms and 2 MB", columns, rows)
    print_reads("What the start of `large` reads", found["large"]["cold"][0])
    return found


def samples(bench: Bench) -> Any:
    chunks = {"large": ROW_TOKENS, "whole": CHUNK_TOKENS}
    found = {name: measure_samples(bench.opener(name), bench.n_rounds, n) for name, n in chunks.items()}
    rows = [
        [name, case, str(len(done)), times(done, "ribbon"), *read(done)]
        for name, cases in found.items()
        for case, done in cases.items()
    ]
    columns = ("run", "sample", "clicks", "ribbon, ms", "requests", "MB")
    print_table("A sample, from the click on; bar: 200 ms to the ribbon", columns, rows)
    print_reads("What a sample of `large` reads", found["large"]["chunks not read before"][0])
    return found


def cells(bench: Bench) -> Any:
    found = measure_cells(bench.opener("whole"), -(-bench.n_rounds // 4), BY_WIDTH)
    without = measure_without_states(bench.opener("large"), -(-bench.n_rounds // 4))
    every = {**found, ("576, no states kept", "chunks not read before"): without}
    rows = [
        [width, case, str(len(done)), times(done, "numbers"), times(done, "contexts"), *read(done)]
        for (width, case), done in every.items()
    ]
    columns = ("features", "token", "clicks", "numbers and directions, ms", "contexts, ms", "requests", "MB")
    print_table("A cell, from the click on; bar: 500 ms", columns, rows)
    print_reads("What a cell of 14,336 features reads", found["14336", "chunks not read before"][0])
    print_reads("What a cell reads whose row keeps no states", without[0])
    return {", ".join(key): done for key, done in every.items()}


def lists(bench: Bench) -> Any:
    found = measure_list(bench.opener("large"), bench.n_rounds)
    rows = [[case, times(done, next(iter(done[0].marks))), *read(done)] for case, done in found.items()]
    print_table(
        "The list of `large`; a search waits 300 ms for the typing to end", ("what", "ms", "requests", "MB"), rows
    )
    return found


def memory(bench: Bench) -> Any:
    found = measure_memory(bench.opener("large"), bench.n_visits)
    rows = [[what, *(f"{sizes[name] / 1e6:.0f}" for name in ("pss", "rss", "peak"))] for what, sizes in found]
    columns = ("`large`", "PSS, MB", "RSS, MB", "highest RSS, MB")
    print_table("Memory of the page's process; bar: 300 MB", columns, rows)
    return dict(found)


PARTS: Mapping[str, Callable[[Bench], Any]] = {
    "start": start,
    "samples": samples,
    "cells": cells,
    "list": lists,
    "memory": memory,
}


def times(done: Sequence[Done], mark: str) -> str:
    return spread([one.marks[mark] for one in done], 0) if mark in done[0].marks else ""


def megabytes(sizes: Iterable[int]) -> str:
    return spread([size / 1e6 for size in sizes], 2)


def read(done: Sequence[Done]) -> tuple[str, str]:
    """Requests that weren't answered from the browser's cache, and their bytes."""
    n = [sum(size > 0 for _, _, size in one.reads) for one in done]
    return spread(n, 0), megabytes(sum(size for _, _, size in one.reads) for one in done)


def print_reads(title: str, done: Done) -> None:
    """Requests by array."""
    by_array = defaultdict(list)
    for key, _, size in done.reads:
        by_array[re.sub(r"^(runs|indexes)/0/|/c\.[\d.]+$", "", key) or "the page"].append(size)
    rows = [[f"`{array}`", len(sizes), f"{sum(sizes) / 1e3:.1f}"] for array, sizes in by_array.items()]
    print_table(title, ("what", "requests", "kB"), sorted(rows, key=lambda row: -float(row[2])))


if __name__ == "__main__":
    main()
