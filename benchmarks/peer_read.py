"""Read back what `peer_jobs.py` wrote, with the reader of its format: exit code 1 if that notices damage.

    python benchmarks/peer_read.py {lorascope|hooks|nnsight} OUT [FILE]     decode FILE, or list the files
    python benchmarks/peer_read.py {lorascope|hooks|nnsight} OUT --against WORK

With `--against` the first batch runs through the model once more in bfloat16, and the stored numbers are compared with
the layers' outputs: the last line is JSON.
"""

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

Read = Callable[[Path, str], tuple[np.ndarray, np.ndarray]]
"""(output folder, component) -> base and unscaled LoRA-branch output of the first batch, float32 (token, feature)."""


def main() -> None:
    warnings.filterwarnings("ignore")
    kind, out = sys.argv[1], Path(sys.argv[2])
    if len(sys.argv) == 5:
        print(json.dumps(compare(READ[kind], out, Path(sys.argv[4]))))
    elif len(sys.argv) == 4:
        DECODE[kind](out, Path(sys.argv[3]))
    else:
        print(STATE[kind](out))


def read_hooks(out: Path, path: str) -> tuple[np.ndarray, np.ndarray]:
    batch = torch.load(out / "00000.pt", mmap=True)
    return tuple(batch[f"{path}/{name}"].flatten(0, 1).float().numpy() for name in ("base", "lora"))  # type: ignore


def read_nnsight(out: Path, path: str) -> tuple[np.ndarray, np.ndarray]:
    import zarr

    group = zarr.open_group(out, mode="r")
    return tuple(group[f"{path}/{name}".replace(".", "/")][:] for name in ("base", "lora"))  # type: ignore


def read_lorascope(out: Path, path: str) -> tuple[np.ndarray, np.ndarray]:
    from lorascope.stores import open_run

    run = open_run(out)
    component = path.removeprefix("base_model.model.")
    return run.base(component).values, run.factor(component).values @ run.lora_B(component).values.T


def decode_lorascope(out: Path, file: Path) -> None:
    from lorascope.stores import verify

    verdict = verify(out, level="digests")
    if not verdict.ok:
        raise SystemExit(verdict.problems[0].message)


def decode_hooks(out: Path, file: Path) -> None:
    for tensor in torch.load(file).values():
        tensor.float().sum()


def decode_nnsight(out: Path, file: Path) -> None:
    import zarr

    array = zarr.open_array(file.parents[len(file.relative_to(out).parts) - file.relative_to(out).parts.index("c") - 1])
    assert np.asarray(array[:]).size


def state_lorascope(out: Path) -> str:
    from lorascope.stores import open_run

    run = open_run(out)
    return f"{int(run.committed_rows.sum())} of {run.n_rows} rows whole, the others marked absent"


def state_hooks(out: Path) -> str:
    whole, torn = 0, 0
    for file in sorted(out.glob("*.pt")):
        try:
            torch.load(file)
            whole += 1
        except Exception:  # whatever it makes of half a file
            torn += 1
    return f"{whole} batches read, {torn} refused"


def state_nnsight(out: Path) -> str:
    import zarr

    group = zarr.open_group(out, mode="r")
    arrays = [node for _, node in group.members(max_depth=None) if isinstance(node, zarr.Array)]
    blank = [int((~np.asarray(array[:]).any(axis=1)).sum()) for array in arrays]
    return f"{max(blank)} of {arrays[0].shape[0]} tokens read as zeros, unmarked"


def compare(read: Read, out: Path, work: Path) -> dict[str, str]:
    from peer_jobs import load, wrapped

    model = load(work, "bfloat16")
    seen: dict[str, dict[str, Any]] = {}

    def keep(path: str, what: str) -> Callable[..., None]:
        def hook(module: Any, arguments: Any, output: Any) -> None:
            seen.setdefault(path, {})[what] = output.detach().flatten(0, 1).float().numpy().copy()

        return hook

    for path, module in wrapped(model):
        module.base_layer.register_forward_hook(keep(path, "base"))
        module.lora_B["default"].register_forward_hook(keep(path, "branch"))
        module.register_forward_hook(keep(path, "output"))
    ids = torch.from_numpy(np.load(work / "batches.npy")[0])
    with torch.inference_mode():
        model(input_ids=ids, use_cache=False)
    scaling = {path: module.scaling["default"] for path, module in wrapped(model)}
    n_equal, worst, lost = 0, 0.0, []
    for path, true in seen.items():
        base, branch = read(out, path)
        n_equal += np.array_equal(base, true["base"])
        worst = max(worst, float(np.linalg.norm(branch - true["branch"]) / np.linalg.norm(true["branch"])))
        delta = scaling[path] * true["branch"]
        lost.append(float(np.linalg.norm(true["output"] - true["base"] - delta) / np.linalg.norm(delta)))
    return {
        "bf16: layers with base bit for bit": f"{n_equal} of {len(seen)}",
        "bf16: branch off by at most": f"{worst:.1e}",
        "(output - base) instead off by, median": f"{float(np.median(lost)):.1e}",
    }


READ = {"lorascope": read_lorascope, "hooks": read_hooks, "nnsight": read_nnsight}
DECODE = {"lorascope": decode_lorascope, "hooks": decode_hooks, "nnsight": decode_nnsight}
STATE = {"lorascope": state_lorascope, "hooks": state_hooks, "nnsight": state_nnsight}

if __name__ == "__main__":
    main()
