"""Made tests/stores/golden/v3-experts.zarr and its .json, once, with the code that introduced the group `experts`.

Never run it again: the point of a store is that later code reads what earlier code wrote.
"""

import json
import sys
from pathlib import Path

import numpy as np
from lorascope.stores import Adapter, Component, ExpertBlock, RunSpec, create_run, open_run

HERE = Path(__file__).parent
PATHS = ("layers.0.mlp.experts.down_proj", "layers.1.mlp.experts.gate_up_proj")


def main(path: Path) -> None:
    rng = np.random.default_rng(4)
    components = tuple(
        Component(
            path=name, kind=name.split(".", 3)[3], layer=layer, d_in=3, d_out=4, dtype="float32", stored_dtype="float32"
        )
        for layer, name in enumerate(PATHS)
    )
    adapter = Adapter(
        name="default", rank=(1, 2), scaling=(2.0, 0.5), factored=(False, False), delta_source=("difference",) * 2
    )
    spec = RunSpec(
        stream="pair",
        components=components,
        adapters=(adapter,),
        n_tokens=4,
        n_samples=1,
        n_choices=0,
        experts=(
            ExpertBlock(path="layers.0.mlp", n_experts=6, n_choices=2),
            ExpertBlock(path="layers.1.mlp", n_experts=6, n_choices=1, applied_to="input"),
        ),
        attributes={"fingerprint": "0" * 64, "provenance": {"note": "golden"}},
    )
    tables = {
        "samples": {
            "id": ["a"], "dataset": ["d"], "split": ["test"], "prompt": ["text"], "length": [4], "answer": [-1],
            "prediction": [-1], "prediction_per_token": [-1], "correct": [-1], "correct_per_token": [-1], "ce": [3.5],
            "token_start": [0], "token_stop": [4],
        },
        "choices": {"sample": [], "text": [], "n_tokens": [], "loglik": [], "loglik_per_token": []},
        "tokens": {
            "sample": [0] * 4, "position": [0, 1, 2, 3], "token_id": [7, 8, 9, 10], "role": [4] * 4,
            "text": [" n", "o", "É", "t"],
        },
    }  # fmt: skip
    with create_run(path, spec, tables=tables, weights={}) as writer:
        blocks = {
            key: (rng.integers(6, size=(4, *shape[1:])) if dtype == np.int32 else rng.random((4, *shape[1:])) / 2)
            .astype(dtype)
            for key, (shape, dtype) in writer.row_arrays(0).items()
        }  # fmt: skip
        writer.write_row(0, blocks)
        writer.finish({})
    run = open_run(path)
    expected = {
        "experts": {key: block.tolist() for key, block in blocks.items() if key.startswith("experts/")},
        "digest": bytes(run.digest(0)).hex(),
        "static_digest": run.attributes["static_digest"],
    }
    path.with_suffix(".json").write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "v3-experts.zarr")
