"""Checks that must pass on any machine: measures, copies, and runs computed in several ways."""

import dataclasses
import math
import os
import socket
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from torch.multiprocessing.spawn import spawn

from lorascope.stores import Run, open_run, verify

from ..buffers.copies import ChosenTokens, DirectCopier, copier_for
from ..buffers.row_buffer import RowBuffer
from ..capture import capture
from ..config import CaptureConfig
from ..recording.reduce import has_kernel, jensen_shannon, reduce_tokens
from ..recording.sink import factor_size
from ..reforward import TOLERANCE, reforward

WIDTHS = (64, 576, 4096, 14336)
N_TOKENS = 9
N_COPIES = 32


class Check(NamedTuple):
    """Result of one selftest check: its name, result and allowed value as texts, and whether it passed."""

    what: str
    result: str
    allowed: str
    ok: bool | None
    """None if there is nothing to check on this machine."""


def check_measuring(device: torch.device) -> Check:
    """Check a capture's measures on this device against float64 functions, for several widths and types."""
    if has_kernel(device):
        return check_kernel(device)
    worst = 0.0
    for base, sizes, generator in _test_bases(device):
        delta = (torch.randn(base.shape, generator=generator) * sizes).to(device)
        worst = max(worst, _largest_error(reduce_tokens(base, delta).js, jensen_shannon(base, delta)))
    by = "numba" if device.type == "cpu" else "torch"
    return Check(f"JS by {by}, relative error", f"{worst:.1e}", "1.0e-06", worst <= 1e-6)


def check_kernel(device: torch.device) -> Check:
    """Check all measures of the triton kernel against float64 functions, and that it flags only wrong outputs."""
    from ..recording import fused  # imports triton

    worst, excess, missed = 0.0, 0.0, 0
    rows = torch.arange(N_TOKENS - 1, 0, -1, device=device)
    for base, sizes, generator in _test_bases(device):
        # With so few bits that delta is exact in float32: the rounding of a large delta would show in JS.
        shapes = (N_TOKENS, 8), (8, base.shape[1])
        factor, weight = ((torch.randn(shape, generator=generator) * 16).round() / 16 for shape in shapes)
        factor, weight = (factor * sizes).to(device), weight.to(device)
        delta = factor.double() @ weight.double() / 2
        output = (base + delta).to(base.dtype)
        measured = fused.measure_factor(base, factor, weight, scaling=0.5, output=output, rows=rows)
        reference = reduce_tokens(base, delta)._replace(js=jensen_shannon(base, delta))
        expected = {**reference._asdict(), "swallowed": ((output == base) & (delta != 0)).double().mean(-1)}
        worst = max(
            worst, *(_largest_error(getattr(measured, name), of_all[rows]) for name, of_all in expected.items())
        )
        excess = max(excess, float(measured.excess.nan_to_num(math.inf).max()))
        output[rows[0], -1] += 1 + output[rows[0], -1].abs()
        wrong = fused.measure_factor(base, factor, weight, scaling=0.5, output=output, rows=rows)
        missed += not float(wrong.excess.max()) > 1
        large = (sizes.flatten() > 0.01).nonzero().flatten().to(device)  # float64's KL is off by about 1e-13
        log_p, log_q = (logits[large].double().log_softmax(-1) for logits in (base, output))
        kl = (log_p.exp() * (log_p - log_q)).sum(-1)
        worst = max(worst, _largest_error(fused.kl_divergence(base, output, large), kl))
        worst = max(worst, _largest_error(fused.token_nll(output, large, torch.zeros_like(large)), -log_q[:, 0]))
    what = f"{worst:.1e}; outputs off by up to {excess:.1f} of rounding, {missed} wrong ones missed"
    ok = worst <= 1e-6 and excess <= 1 and not missed
    return Check("measures by Triton, relative error", what, "1.0e-06; 1, none", ok)


def check_copies(device: torch.device, copier: DirectCopier | None = None) -> Check:
    """Check that copies to host memory stay right although later work overwrites what they copy."""
    if device.type != "cuda" and copier is None:
        return Check("copies under load", "nothing to copy on a CPU", "", None)
    copier = copier or copier_for(device)
    chosen = ChosenTokens(np.concatenate([np.arange(900), np.arange(1000, 1900)]))
    size = 4096 if device.type == "cuda" else 64
    load, expected = torch.ones(size, size, device=device), []
    buffer = RowBuffer({str(n): ((len(chosen), 512), np.dtype(np.float32)) for n in range(N_COPIES)})
    places = list(buffer.tensors.values())
    copier.pin(buffer.memory)
    try:
        for place in places:
            output = torch.randn(2000, 512, device=device)
            expected.append(chosen.copy(output))
            torch.mm(load, load)  # the copy is asked for before the device gets there
            copier.copy(output, chosen, place)
            output.fill_(math.nan)  # as a later layer may
        copier.mark()()
    finally:
        copier.close()
    n_wrong = sum(not torch.equal(place, output.cpu()) for place, output in zip(places, expected, strict=True))
    return Check("copies under load", f"{n_wrong} of {N_COPIES} differ", "0", n_wrong == 0)


def check_capture(config: CaptureConfig, device: torch.device) -> Iterator[Check]:
    """Capture a run, and yield checks that its store is valid, a recomputation agrees, and its JS fits its states.

    JS is the Jensen-Shannon divergence of the softmaxes with and without delta.
    """
    run = capture(config)
    problems = verify(run.path).problems
    yield Check("a capture, verified", f"{len(problems)} problems", "0", not problems)
    again = reforward(config.out, 1, overrides={"device": "cpu"})
    equal = f"{again.n_equal} of {again.n_vectors} vectors equal"
    if device.type == "cpu":
        yield Check("captured again", equal, "all, bit for bit", again.n_equal == again.n_vectors)
    else:
        allowed = allowed_difference(run)
        result = f"{again.worst:.1e}; {equal}"
        yield Check("on the CPU, of the norm", result, f"{allowed:.1e}", again.worst <= allowed and not again.problems)
    worst, js = 0.0, torch.from_numpy(run.js().values)
    for index, path in enumerate(run.component_paths):
        worst = max(worst, _js_error(run, path, js[:, index].double()))
    yield Check("its JS by its states, of rounding", f"{worst:.2f}", "1", worst <= 1)


def check_ranks(config: CaptureConfig, n: int) -> Check:
    """Check that n processes, one per device, capture the same rows as one process."""
    if n < 2:
        return Check("ranks over several devices", "there is one device", "", None)
    config = dataclasses.replace(config, states="none", limit=n * 1024 // config.window_tokens)
    alone, ranked = (dataclasses.replace(config, out=f"{config.out}.{name}") for name in ("alone", "ranks"))
    capture(alone)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn(_capture_rank, (ranked, n, port), nprocs=n)  # type: ignore[no-untyped-call]  # torch's own
    single, many = open_run(alone.out), open_run(ranked.out)
    n_differ = sum(not np.array_equal(single.digest(row), many.digest(row)) for row in range(single.n_rows))
    return Check(f"{n} ranks against one process", f"{n_differ} of {single.n_rows} rows differ", "0", n_differ == 0)


def allowed_difference(run: Run) -> float:
    """Return the largest relative difference of a state between devices that the order of sums explains.

    Relative is ||difference|| / ||vector||.

    A layer's sum of K float32 products is off by about eps sqrt(K) of its size, and a sum rounded to a shorter type by
    a unit of that type. The errors of n layers in a row are independent, so they grow with sqrt(n). TF32 is off, as in
    torch. The result is at most the tolerance of `reforward`.
    """
    dtypes = run.components["dtype"].values.tolist()
    eps = max(torch.finfo(getattr(torch, dtype)).eps for dtype in dtypes)
    sums = torch.finfo(torch.float32).eps * math.sqrt(run.components["d_in"].values.max())
    return min(max(eps, sums) * math.sqrt(len(dtypes)), max(TOLERANCE[dtype] for dtype in dtypes))


def _js_error(run: Run, path: str, js: torch.Tensor) -> float:
    """Return the largest difference of `js` (token,) from the stored states' JS, divided by what rounding allows.

    Two float32 sums give delta, here and in the capture, and differ by at most e. The square root of JS is a metric
    (Endres and Schindelin 2003), so e changes it by at most that of JS(q, q'), which is Var_q(e) / 8 for small e. The
    kernel may be off by 1e-6 of JS, and numbers below float32's smallest are 0.
    """
    base, delta = (torch.from_numpy(read(path).values) for read in (run.base, run.delta))
    weights, off = run.delta_arrays(path).weights(), torch.zeros(())
    if weights:
        factor, lora_b = torch.from_numpy(run.factor(path).values), torch.from_numpy(weights["lora_B"])
        bias = None if weights["bias"] is None else torch.from_numpy(weights["bias"])
        size = factor_size(factor, lora_b, bias, float(weights["scaling"]))
        off = torch.finfo(torch.float32).eps * (factor.shape[1] + 4) * size
    expected, q = jensen_shannon(base, delta).sqrt(), (base.double() + delta).softmax(-1)
    allowed = 0.5e-6 * expected + ((q * off.double() ** 2).sum(-1) / 8 + torch.finfo(torch.float32).tiny).sqrt()
    return float(((js.sqrt() - expected).abs() / allowed).nan_to_num(math.inf).max())


def _test_bases(device: torch.device) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Generator]]:
    """Yield (random base on `device`, sizes (token, 1) for its deltas, generator) for each width and type."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.logspace(-1, 1.5, N_TOKENS)[:, None]
    # Powers of two, from 3e-8 to 128: JS from about 1e-16 to ln 2.
    sizes = torch.tensor([[2.0 ** round(5.3 * (token % 7) - 25)] for token in range(N_TOKENS)])
    for width, dtype in product(WIDTHS, (torch.float32, torch.bfloat16, torch.float16)):
        yield (torch.randn(N_TOKENS, width, generator=generator) * spread).to(device, dtype), sizes, generator


def _largest_error(values: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest error of `values` relative to `expected`; infinite if a value is NaN.

    Expected values count as at least float32's smallest.
    """
    off = (values.double() - expected).abs() / expected.abs().clamp(min=torch.finfo(torch.float32).tiny)
    off = off.masked_fill(values.double() == expected, 0)
    return float(off.nan_to_num(math.inf).max())


def _capture_rank(rank: int, config: CaptureConfig, n: int, port: int) -> None:
    """Capture as process number `rank` of `n` on this machine, with the environment variables that torch reads."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": n, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in names.items()}
    capture(config)
