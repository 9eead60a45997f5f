"""Golden values that Python and the page of `lorascope view` both test: `python -m tests.analyze.viewing.test_golden`.

That rewrites `view/test/golden.json`. Here its answers are computed again from the inputs that the file holds.
"""

import base64
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorascope.analyze import jensen_shannon
from lorascope.analyze.measuring.measures import MEASURES, feature_permutation
from lorascope.stores.format.stored_array import widen_block
from lorascope.stores.reading.source import delta_block

GOLDEN = Path(__file__).parents[3] / "view" / "test" / "golden.json"
MOST_BYTES = 200_000
ABOUT = (
    "Inputs and Python's answers, made by tests/analyze/viewing/test_golden.py. Each array is {dtype, shape, base64}: "
    "its little-endian bytes in C order. `bfloat16`: bits -> values, exact. `delta`: scaling * (z B^T + bias), "
    "float32, within 1e-6 of the sum of |terms|. `js`: base, delta (token, feature) -> js_float64, within 1e-14 of the "
    "true value; js, js_permuted, effective_width, base_norm, delta_norm and delta_ratio, float32, within 1e-6; all "
    "relative. The delta of js_permuted is delta[:, permutation]. `scores`: z rotation^T, float64."
)
Arrays = dict[str, np.ndarray]


def bfloat16(inputs: Arrays) -> Arrays:
    return {"values": widen_block(inputs["bits"], "bfloat16")}


def delta(inputs: Arrays) -> Arrays:
    bias, scaling = inputs.get("bias"), np.float32(inputs["scaling"])
    return {"delta": delta_block(inputs["z"], lora_B=inputs["lora_B"], scaling=scaling, bias=bias)}


def js(inputs: Arrays) -> Arrays:
    base, delta = inputs["base"], inputs["delta"]
    names = ("js", "js_permuted", "effective_width", "base_norm", "delta_norm", "delta_ratio")
    with np.errstate(invalid="ignore", over="ignore"):
        found = {name: _measured(name, base, delta) for name in names}
    found["js_float64"] = jensen_shannon(base.astype(np.float64), delta.astype(np.float64))
    return found


def _measured(name: str, base: np.ndarray, delta: np.ndarray) -> np.ndarray:
    values = MEASURES[name].function(base, delta)
    return dict(zip(MEASURES[name].outputs, values, strict=True))[name] if isinstance(values, tuple) else values


def scores(inputs: Arrays) -> Arrays:
    return {"scores": inputs["z"].astype(np.float64) @ inputs["rotation"].astype(np.float64).T}


ANSWERS: Mapping[str, Callable[[Arrays], Arrays]] = {"bfloat16": bfloat16, "delta": delta, "js": js, "scores": scores}


def packed(array: Any) -> dict[str, Any]:
    values = np.ascontiguousarray(array)
    values = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return {
        "dtype": values.dtype.name,
        "shape": list(np.shape(array)),
        "base64": base64.b64encode(values.tobytes()).decode(),
    }


def unpacked(one: Mapping[str, Any]) -> np.ndarray:
    values = np.frombuffer(base64.b64decode(one["base64"]), np.dtype(one["dtype"]).newbyteorder("<"))
    return values.reshape(one["shape"]).astype(one["dtype"])


def cases() -> dict[str, dict[str, Arrays]]:
    """Inputs by what is computed of them and by name."""
    rng = np.random.default_rng(24)

    def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
        return (rng.normal(size=shape) * scale).astype(np.float32)

    bits = np.r_[0x0000, 0x8000, 0x3F80, 0xBF80, 0x7F80, 0xFF80, 0x7FC0, 0x0001, 0x8001, 0x007F, 0x0080, 0x7F7F]
    deltas = {
        f"{name}": {"z": normal(n, rank), "lora_B": normal(width, rank, scale=0.3), "scaling": np.float32(scaling)}
        for name, n, rank, width, scaling in (
            ("rank 1", 3, 1, 1, 2.0),
            ("rank 3", 4, 3, 5, 0.7),
            ("rank 16", 2, 16, 64, 0.1),
            ("width 576", 2, 4, 576, 2.0),
        )
    }
    deltas["bias"] = deltas["rank 3"] | {"bias": normal(5)}
    deltas["zero B"] = deltas["rank 3"] | {"lora_B": np.zeros((5, 3), np.float32)}
    tiny = 10.0 ** -np.arange(0, 11.5, 0.5)[:, None]
    peaked, huge = normal(6, 64), normal(6, 64)
    peaked[:, 7] += np.array([5, 10, 20, 50, 80, 1000], np.float32)
    huge *= np.array([1e2, 1e4, 1e8, 1e20, 1e30, 1e37], np.float32)[:, None]
    broken = [normal(7, 8), normal(7, 8)]
    for token, (which, value) in enumerate([(0, np.nan), (1, np.nan), (0, np.inf), (1, np.inf), (0, -np.inf)]):
        broken[which][token, token] = value
    broken[0][5, 0], broken[1][5, 0] = np.inf, -np.inf
    pairs = {
        "width 1": ([[0], [3], [-1e30]], [[0], [100], [1]]),
        "width 2": ([[0, 0]] * 4 + [[80, -20]], [[0, 0], [0, 1000], [1e-3, 0], [-1e-6, 1e-6], [-90, 15]]),
        "identical": (normal(2, 64), np.zeros((2, 64))),
        "constant delta": (normal(4, 64), np.repeat([[0.5], [-3], [1e-4], [1e6]], 64, axis=1)),
        "zero base": (np.zeros((3, 16)), np.r_[np.zeros((1, 16)), normal(2, 16)]),
        "tiny to large": (normal(len(tiny), 64), normal(len(tiny), 64) * tiny),
        "tiny, peaked": (np.repeat(peaked[3:4], 6, axis=0), normal(6, 64) * 10.0 ** -np.arange(6)[:, None]),
        "peaked": (peaked, normal(6, 64)),
        "huge base": (huge, normal(6, 64)),
        "huge delta": (normal(6, 64), huge),
        "both huge": (huge, huge[::-1]),
        "not finite": tuple(broken),
        "width 576": (widen_block((normal(4, 576).view(np.uint32) >> 16).astype(np.uint16), "bfloat16"),
                      normal(4, 576) * np.array([[1e-6], [1e-3], [0.05], [3]])),
    }  # fmt: skip
    return {
        "bfloat16": {"all kinds": {"bits": np.r_[bits, rng.integers(0, 2**16, 116)].astype(np.uint16)}},
        "delta": deltas,
        "js": {
            name: {
                "base": np.array(base, np.float32),
                "delta": np.array(delta, np.float32),
                "permutation": np.random.default_rng(np.shape(base)[1]).permutation(np.shape(base)[1]).astype(np.int32),
            }
            for name, (base, delta) in pairs.items()
        },
        "scores": {
            "rank 1": {"z": normal(2, 1), "rotation": normal(1, 1)},
            "rank 8": {"z": normal(3, 8), "rotation": normal(8, 8)},
        },
    }


def golden() -> dict[str, Any]:
    made: dict[str, Any] = {"about": ABOUT}
    for kind, named in cases().items():
        made[kind] = {}
        for name, inputs in named.items():
            both = {"inputs": inputs, "answers": ANSWERS[kind](inputs)}
            made[kind][name] = {
                part: {key: packed(one) for key, one in arrays.items()} for part, arrays in both.items()
            }
    return made


def write() -> None:
    GOLDEN.write_text(json.dumps(golden(), indent=1) + "\n", encoding="utf-8")


COMMITTED = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {}
NAMED = [(kind, name) for kind in ANSWERS for name in COMMITTED.get(kind, {})]


def test_the_file_holds_every_case_and_is_small() -> None:
    assert COMMITTED["about"] == ABOUT
    assert {kind: list(named) for kind, named in cases().items()} == {kind: list(COMMITTED[kind]) for kind in ANSWERS}
    assert GOLDEN.stat().st_size < MOST_BYTES


@pytest.mark.parametrize(("kind", "name"), NAMED)
def test_answers_are_those_of_python(kind: str, name: str) -> None:
    case = COMMITTED[kind][name]
    found = ANSWERS[kind]({key: unpacked(one) for key, one in case["inputs"].items()})
    assert sorted(found) == sorted(case["answers"])
    for key, values in found.items():
        expected = unpacked(case["answers"][key])
        assert values.dtype == expected.dtype
        # Kernels and BLAS add in another order on another processor.
        tolerance = 0 if kind == "bfloat16" else 1e-13 if values.dtype == np.float64 else 1e-6
        np.testing.assert_allclose(values, expected, rtol=tolerance, atol=1e-6 if kind == "delta" else 0, err_msg=key)


def test_permutations_are_those_of_the_measure() -> None:
    for case in COMMITTED["js"].values():
        width = case["inputs"]["base"]["shape"][1]
        np.testing.assert_array_equal(unpacked(case["inputs"]["permutation"]), feature_permutation(width))


if __name__ == "__main__":
    write()
