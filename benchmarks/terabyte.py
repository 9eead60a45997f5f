"""Reading a run of 2,002 components over S3: `python benchmarks/terabyte.py` prints requests, bytes and seconds.

Two runs are written by the real writer to moto, an S3 server, behind a proxy that counts what it answers. One has the
metadata, tables and digests of ten million tokens and no rows; the other one has the chunks of rows that reading one
layer needs. Each step is a process of its own, whose imports aren't timed, and is done with the answers of this machine
and with each answer 0.1 s later.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from rounds import Took, print_table, timed, write_json
from synthetic import random_spec, random_weights, token_tables

from lorascope.stores import create_run, open_run
from lorascope.stores.format.digests import combine_row_digests
from lorascope.stores.format.layout import DIGESTS, is_kept_with_states
from lorascope.stores.format.spec import ROW_TOKENS
from lorascope.stores.reading.root import read_root
from lorascope.stores.writing.write import RunWriter, write_document

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.faulty import Answer, FaultyServer, serve

N_COMPONENTS = 2002
LAYER = "model.layers.2.*"
BY_ROW = re.compile(r"/(base|factor|js|nll|kl|swallowed)/c\.")
"""Chunks that each row has of its own; others are tables and weights."""
URLS = {name: f"s3://bucket/{name}.zarr" for name in ("whole", "layer")}
STEPS = {
    "open": "whole",
    "labels": "whole",
    "info": "whole",
    "miub": "layer",
    "cluster": "layer",
}
"""Step -> the run that it reads."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--components", type=int, default=N_COMPONENTS)
    parser.add_argument("--rows", type=int, default=9766, help="rows of 1024 tokens of the run without chunks")
    parser.add_argument("--layer-rows", type=int, default=8, help="rows of the run that has one layer's chunks")
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3, help="how often each step is done; the fastest time counts")
    parser.add_argument("--steps", nargs="*", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        print(json.dumps(take_step(*arguments.step)._asdict()))
        return
    with serve() as server:
        urllib.request.urlopen(urllib.request.Request(f"{server.url}/bucket", method="PUT")).close()
        os.environ |= {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
        os.environ |= {"AWS_ENDPOINT_URL": server.url, "AWS_ALLOW_HTTP": "true"}
        for name in dict.fromkeys(STEPS[step] for step in arguments.steps):
            n_rows, has_layer = (arguments.rows, False) if name == "whole" else (arguments.layer_rows, True)
            write_part(URLS[name], arguments.components, n_rows, arguments.width, has_layer=has_layer)
        found = {step: measure(server, step, arguments.rounds) for step in arguments.steps}
    print_table(
        f"{arguments.components} components of width {arguments.width}; {arguments.rows} rows, "
        f"{arguments.layer_rows} of the run with one layer's chunks",
        ("step", *next(iter(found.values()))),
        [[step, *(f"{value:.5g}" for value in values.values())] for step, values in found.items()],
    )
    shape = {name: getattr(arguments, name) for name in ("components", "rows", "layer_rows", "width")}
    write_json(arguments.json, {"shape": shape, **found})


def measure(server: FaultyServer, step: str, n_rounds: int) -> dict[str, float]:
    """Requests, bytes and least seconds of a step, each time in a process of its own."""
    late: list[Took] = []
    took: list[Took] = []
    command = [sys.executable, __file__, "--step", step, URLS[STEPS[step]]]
    for fault, times in (("slow", late), (None, took)) * n_rounds:
        server.counted_from_now(lambda index, method, fault=fault: fault)
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        times.append(Took(**json.loads(done.stdout.splitlines()[-1])))
    of_rows = [answer for answer in server.answers if BY_ROW.search(answer.path)]
    index = [answer for answer in of_rows if answer.part.startswith("bytes=-")]
    asked = Counter((answer.path, answer.part) for answer in of_rows if answer not in index)
    return {
        "requests": len(server.answers),
        "of indexes of z": len(index),
        "of chunks of rows": asked.total(),
        "most often one chunk": max(asked.values(), default=0),
        "MB": megabytes(server.answers),
        "MB of rows": megabytes(of_rows),
        "MB of js": megabytes(answer for answer in of_rows if "/js/" in answer.path),
        "processor s": round(min(each.processor for each in took), 2),
        "s": round(min(each.wall for each in took), 2),
        "s, each answer 0.1 s later": round(min(each.wall for each in late), 2),
    }


def megabytes(answers: Iterable[Answer]) -> float:
    """Size of the answers together, in MB."""
    return round(sum(answer.n_bytes for answer in answers) / 1e6, 1)


def take_step(step: str, url: str) -> Took:
    """Do a step, and return its seconds, without imports and compilation; processor seconds are this process's."""
    import distributed
    from analysis import warm_up

    from lorascope.analyze import miub
    from lorascope.cli.main import main as command

    warm_up()
    steps: dict[str, Callable[[], object]] = {
        "open": lambda: open_run(url),
        "labels": lambda: open_run(url).token_labels["text"].load(),
        "info": lambda: sys.exit("`info` failed") if command(["info", url]) else None,
        "miub": lambda: miub(url, component=LAYER),
    }
    if step != "cluster":
        return timed(steps[step])[1]
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        return timed(lambda: miub(url, component=LAYER, scheduler=cluster.scheduler_address))[1]


def write_part(url: str, n_components: int, n_rows: int, width: int, *, has_layer: bool) -> None:
    """Write a finished run whose tables, weights and digests are whole, and whose rows are missing or of one layer."""
    rng = np.random.default_rng(0)
    n_tokens = n_rows * ROW_TOKENS
    spec = random_spec(width=width, n_components=n_components, n_tokens=n_tokens, token_text=True)
    tables = token_tables(n_tokens)
    words = np.array([f" word{i}" for i in range(50_000)], np.dtypes.StringDType())
    tables["tokens"] |= {
        "text": words[rng.zipf(1.3, n_tokens) % len(words)],
        "token_id": rng.integers(50_000, size=n_tokens),
    }
    print(f"writing {url}", file=sys.stderr, flush=True)
    with create_run(url, spec, tables=tables, weights=random_weights(spec, rng)) as writer:
        if has_layer:
            write_layer(writer, n_rows, rng)
        digests = rng.integers(256, size=(n_rows, 32), dtype=np.uint8)
        writer._write_chunk(DIGESTS, 0, digests)
        root = read_root(writer.place)
        finished = {"finished": True, "rows_digest": combine_row_digests(dict(enumerate(map(bytes, digests))))}
        write_document(writer.place, {**root.document, "attributes": {**root.attributes, **finished}})


def write_layer(writer: RunWriter, n_rows: int, rng: np.random.Generator) -> None:
    """Write base of one layer, and everything else that isn't base."""
    layer = f"states/{LAYER.removesuffix('*')}"
    for row in range(n_rows):
        for path, (shape, dtype) in writer.row_arrays(row).items():
            if path.startswith("states/") and not path.startswith(layer):
                continue
            block = rng.standard_normal(shape, np.float32)
            if dtype == np.uint16:
                block = (block.view(np.uint32) >> 16).astype(np.uint16)
            elif not is_kept_with_states(path):
                block = np.abs(block) / 10
            writer._write_chunk(path, row, block)


if __name__ == "__main__":
    main()
