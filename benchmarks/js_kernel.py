"""Speed and accuracy of the Jensen-Shannon kernel: `python benchmarks/js_kernel.py` prints two Markdown tables.

Speed on one core, compared with PyTorch (eager and compiled) and SciPy on the same tokens, in processor time so
that other work on the machine counts less; accuracy against mpmath. Takes one to two minutes; torch.compile
needs a C++ compiler.
"""

import os

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")  # before NumPy and torch load

import math
import platform
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import process_time

import mpmath
import numba
import numpy as np
import scipy
import torch
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax
from torch.nn.functional import kl_div, log_softmax

from lorascope.analyze import jensen_shannon

N_ROUNDS = 7
SHAPES = ((8192, 64), (1024, 576), (8192, 576), (1024, 1536), (1024, 4096), (1024, 14336))
"""(tokens, width). A row has 1024 tokens; at width 576 the intermediate results of one stay in cache."""
DELTA_SPREADS = (0.1, 1.0)  # deltas that span less than 4, and more: the kernel does more work on the latter
Measure = Callable[[np.ndarray, np.ndarray], np.ndarray]


def torch_js(base: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    log_p, log_q = log_softmax(base, -1), log_softmax(base + delta, -1)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    parts = [kl_div(log_m, log_x, reduction="none", log_target=True).sum(-1) for log_x in (log_p, log_q)]
    return (parts[0] + parts[1]) / 2


def on_arrays(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Measure:
    def measure(base: np.ndarray, delta: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return function(torch.from_numpy(base), torch.from_numpy(delta)).numpy()

    return measure


def scipy_js(base: np.ndarray, delta: np.ndarray) -> np.ndarray:
    return jensenshannon(softmax(base, axis=-1), softmax(base + delta, axis=-1), axis=-1) ** 2


def scipy_js_float64(base: np.ndarray, delta: np.ndarray) -> np.ndarray:
    """What SciPy needs to see a small divergence: in float32 one of 1e-6 nats is off by several percent."""
    return scipy_js(base.astype(np.float64), delta)


def times(measures: dict[str, Measure], base: np.ndarray, delta: np.ndarray, *, warm: bool) -> dict[str, float]:
    """Return the median processor seconds of each, over rounds in which they take turns.

    Warm, each runs once untimed before: caches and allocator are then as it leaves them itself, as in a loop over many
    equal blocks that does nothing else. Cold, they are as the one before left them.
    """
    expected = jensen_shannon(base, delta)
    for name, measure in measures.items():  # also compiles
        np.testing.assert_allclose(measure(base, delta), expected, rtol=0.01, err_msg=name)
    seconds = defaultdict(list)
    for _ in range(N_ROUNDS):
        for name, measure in measures.items():
            if warm:
                measure(base, delta)
            start = process_time()
            measure(base, delta)
            seconds[name].append(process_time() - start)
    return {name: median(values) for name, values in seconds.items()}


def print_speed(*, warm: bool) -> None:
    compiled = torch.compile(torch_js, dynamic=False)
    measures = {
        "lorascope": jensen_shannon,
        "torch eager": on_arrays(torch_js),
        "torch.compile": on_arrays(compiled),
        "scipy": scipy_js,
        "scipy float64": scipy_js_float64,
    }
    ours, *others = measures
    print(
        f"\nG elements/s on one core, {'warm' if warm else 'cold'}: base of deviation 2, "
        f"delta of the deviation stated; medians of {N_ROUNDS} interleaved rounds\n"
    )
    print("| tokens | width | delta |", " | ".join(measures), "|", " | ".join(f"x {name}" for name in others), "|")
    print("|--:" * (3 + len(measures) + len(others)) + "|")
    rng = np.random.default_rng(0)
    for n_tokens, width in SHAPES:
        base = 2 * rng.standard_normal((n_tokens, width), np.float32)
        noise = rng.standard_normal((n_tokens, width), np.float32)
        for spread in DELTA_SPREADS:
            seconds = times(measures, base, np.float32(spread) * noise, warm=warm)
            rates = [f"{base.size / seconds[name] / 1e9:.3f}" for name in measures]
            ratios = [f"{seconds[name] / seconds[ours]:.1f}" for name in others]
            print(f"| {n_tokens} | {width} | {spread} |", " | ".join(rates + ratios), "|", flush=True)


def exact_js(base: np.ndarray, delta: np.ndarray) -> float:
    """JS in 50 digits: with r = q/p, the sum of p ((1 + r) log(2/(1 + r)) + r log r)/2."""
    with mpmath.workdps(50):
        deltas = [mpmath.mpf(float(x)) for x in delta]
        top = float(base.max())
        p = [mpmath.exp(mpmath.mpf(float(x)) - top) for x in base]
        ratios = [mpmath.exp(x) for x in deltas]
        z = mpmath.fsum(p)
        factor = z / mpmath.fsum(x * r for x, r in zip(p, ratios, strict=True))
        log_factor = mpmath.log(factor)
        terms = []
        for x, r, d in zip(p, ratios, deltas, strict=True):
            r *= factor
            terms.append(x * (r * (d + log_factor) - (1 + r) * mpmath.log((1 + r) / 2)))
        return float(mpmath.fsum(terms) / (2 * z))


def accuracy_rows(width: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows of three kinds: normal; near 1e5, where float32 is coarse; one feature far above all others."""
    rng = np.random.default_rng(width)
    rows = []
    for exponent in range(-16, 3, 2):
        delta = 3 * 10 ** (exponent / 2) * rng.standard_normal(width)
        base = 2 * rng.standard_normal(width)
        dominated = base.copy()
        dominated[width // 3] = 20
        rows += [(base, delta), (1e5 + base, delta), (dominated, delta)]
    return rows


def bfloat16(x: np.ndarray) -> np.ndarray:
    """Rounded towards zero to what a bfloat16 holds, as float32."""
    return (np.float32(x).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


DTYPES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]] = {
    "float32": (np.float32, np.float32),
    "bfloat16 base, float32 delta": (bfloat16, np.float32),
    "float16": (np.float16, np.float16),
    "float64": (np.float64, np.float64),
}
"""Name -> types that base and delta are converted to before the exact value is computed."""


def print_accuracy() -> None:
    widths = (64, 576, 4096, 14336)
    errors: dict[tuple[str, int], dict[int, float]] = defaultdict(dict)
    for width in widths:
        for row in accuracy_rows(width):
            for name, casts in DTYPES.items():
                with np.errstate(over="ignore"):
                    base, delta = (cast(values) for cast, values in zip(casts, row, strict=True))
                if np.isfinite(base).all() and np.ptp(delta):  # 1e5 is infinite in float16, and small deltas are 0
                    exact = exact_js(base, delta)
                    error = abs(float(jensen_shannon(base, delta)) / exact - 1)
                    decade = math.floor(math.log10(exact) / 4) * 4
                    errors[name, decade][width] = max(error, errors[name, decade].get(width, 0.0))
    print("\nLargest relative error against mpmath (50 digits)\n")
    print("| dtype | JS, nats |", " | ".join(f"width {width}" for width in widths), "|")
    print("|---|--:" + "|--:" * len(widths) + "|")
    for name in DTYPES:
        for decade in sorted((d for n, d in errors if n == name), reverse=True):
            found = errors[name, decade]
            cells = [f"{found[width]:.1e}" if width in found else "" for width in widths]
            print(f"| {name} | 1e{decade} to {'ln 2' if decade == -4 else f'1e{decade + 4}'} |", " | ".join(cells), "|")


def processor() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    torch.set_num_threads(1)
    versions = {"numba": numba, "NumPy": np, "PyTorch": torch, "SciPy": scipy}
    print(f"{processor()}; Python {platform.python_version()},", end=" ")
    print(", ".join(f"{name} {module.__version__}" for name, module in versions.items()))
    print_speed(warm=False)
    print_speed(warm=True)
    print_accuracy()


if __name__ == "__main__":
    main()
