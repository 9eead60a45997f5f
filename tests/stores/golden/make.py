"""Made tests/stores/golden/v1.zarr, v2.zarr, v3.zarr and their .json, each once, with the code that introduced that version.

Never run it again for these versions: the point of a store is that later code reads what earlier code wrote.
"""

import json
import sys
from pathlib import Path

import numpy as np
from lorascope.stores import Adapter, Component, RunSpec, create_run, open_run
from lorascope.stores.format.layout import ArraySpec, array_specs
from lorascope.stores.writing import create

LATER = (
    ArraySpec(path="later/gain", shape=(4, 2), chunks=(1024, 2), dtype="float32", fill=np.nan, dims=("token", "k"), by_row=True),
    ArraySpec(path="later/note", shape=(2,), chunks=(2,), dtype="string", fill="", dims=("k",)),
)
"""A group of a later writer, which readers of version 3 pass by."""
values = create._static_values
create.array_specs = lambda spec: [*array_specs(spec), *LATER]
create._static_values = lambda *given: {**values(*given), "later/note": ["one", "two"]}
HERE = Path(__file__).parent


def main(path: Path) -> None:
    rng = np.random.default_rng(1)
    components = tuple(
        Component(
            path=f"layers.{i}.fc", kind="fc", layer=i, d_in=2, d_out=3 + i, dtype=dtype, stored_dtype=dtype, fused=()
        )
        for i, dtype in enumerate(["float32", "bfloat16"])
    )
    adapter = Adapter(name="default", rank=(1, 2), scaling=(2.0, 0.5), factored=(True, False))
    spec = RunSpec(
        stream="adapted", components=components, adapters=(adapter,), n_tokens=4, n_samples=2, n_choices=2,
        attributes={"fingerprint": "0" * 64, "provenance": {"note": "golden"}},
    )
    tables = {
        "samples": {
            "id": ["a", "b"], "dataset": ["d", "d"], "split": ["test", "test"], "prompt": ["main", "text"],
            "length": [5, 2], "answer": [1, -1], "prediction": [0, -1], "prediction_per_token": [1, -1],
            "correct": [0, -1], "correct_per_token": [1, -1], "ce": [1.25, 3.5], "token_start": [0, 2], "token_stop": [2, 4],
        },
        "choices": {
            "sample": [0, 0], "text": ["yes", "no"], "n_tokens": [1, 2], "loglik": [-1.0, -1.5],
            "loglik_per_token": [-1.0, -0.75],
        },
        "tokens": {
            "sample": [0, 0, 1, 1], "position": [3, 4, 0, 1], "token_id": [7, 8, 9, 10], "role": [2, 2, 4, 4],
            "text": [" n", "o", "É", "t"],
        },
    }
    weights = {"adapters/default/lora_B/layers.0.fc": rng.normal(size=(3, 1)).astype(np.float32)}
    with create_run(path, spec, tables=tables, weights=weights) as writer:
        blocks = {
            key: rng.normal(size=(4, *shape[1:])).astype(np.float32) for key, (shape, _) in writer.row_arrays(0).items()
        }
        blocks["adapters/default/js"] = np.array([[0.125, np.nan], [np.nan, 0.5], [0, 0.25], [0.0625, 0.5]], np.float32)
        blocks["adapters/default/swallowed"] = np.array([[0, 0.5], [0.25, 0], [0, 0], [1, 0.125]], np.float32)
        blocks["states/layers.1.fc/base"] = (blocks["states/layers.1.fc/base"].view(np.uint32) >> 16).astype(np.uint16)
        blocks["tokens/nll"] = np.array([0.5, 1.5, np.nan, 2.0], np.float32)
        writer.write_row(0, blocks)
        writer.finish({})
    run = open_run(path)
    expected = {
        "base": {c: run.base(c).values.tolist() for c in run.component_paths},
        "delta": {c: run.delta(c).values.tolist() for c in run.component_paths},
        "tables": tables,
        "digest": bytes(run.digest(0)).hex(),
        "static_digest": run.attributes["static_digest"],
    }
    path.with_suffix(".json").write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "v3.zarr")
