"""Numbers of the GPU kernel in triton's interpreter, and its machine code for cards that aren't here."""

import math
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import mpmath
import numpy as np
import pytest
import torch

from lorascope.capture.recording.forward import kl_divergence
from lorascope.capture.recording.reduce import _reduce_in_torch, jensen_shannon
from lorascope.capture.recording.sink import _swallowed_share, excess, factor_size
from lorascope.capture.samples.scoring import token_nll

from ...marks import slow_but
from ...printed import benchmark

pytest.importorskip("triton", reason="the GPU kernel needs triton, which is on PyPI for Linux on x86-64")

from lorascope.capture.recording.fused import OPTIONS, block_shape
from lorascope.capture.recording.row_kernel import nll_rows

TYPES = [torch.float32, torch.bfloat16, torch.float16]
Run = Callable[..., Any]


@contextmanager
def interpreter(*args: str) -> Iterator[Run]:
    command = [sys.executable, Path(__file__).with_name("interpreter.py"), *args]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def run(name: str, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
            pickle.dump((name, args, kwargs), process.stdin)
            process.stdin.flush()
            return pickle.load(process.stdout)

        yield run
        process.stdin.close()


@pytest.fixture(scope="module")
def rough() -> Iterator[Run]:
    with interpreter("rough") as found:
        yield found


def states(n_tokens: int, width: int, dtype: torch.dtype, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Base with spreads from 0.1 to 30, and deltas with spreads from 3e-8, where JS is about 1e-16, to 100."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(n_tokens, width, generator=generator) * torch.logspace(-1, 1.5, n_tokens)[:, None]
    delta = torch.randn(n_tokens, width, generator=generator) * 10 ** (torch.arange(n_tokens)[:, None] % 7 * 1.6 - 7.5)
    return base.to(dtype), delta


def by_mpmath(base: torch.Tensor, delta: torch.Tensor) -> tuple[float, float]:
    """JS and KL of one token."""
    with mpmath.workdps(60):
        x, y = [mpmath.mpf(v) for v in base.tolist()], [mpmath.mpf(v) for v in delta.tolist()]
        first, second = [mpmath.exp(v) for v in x], [mpmath.exp(a + b) for a, b in zip(x, y, strict=True)]
        p, q = ([v / mpmath.fsum(one) for v in one] for one in (first, second))
        m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
        kl, *halves = (
            mpmath.fsum(a * mpmath.log(a / b) for a, b in zip(*two, strict=True)) for two in ((p, q), (p, m), (q, m))
        )
        return float(mpmath.fsum(halves) / 2), float(kl)


def assert_close(found: torch.Tensor, expected: Any, *, rtol: float = 1e-6, name: str = "") -> None:
    np.testing.assert_allclose(found.double(), expected, rtol=rtol, atol=0, err_msg=name)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("width", [2, 65, 200])
def test_divergences_are_those_of_mpmath(kernel: Run, dtype: torch.dtype, width: int) -> None:
    base, delta = states(7, width, dtype)
    expected = np.array([by_mpmath(*token) for token in zip(base, delta, strict=True)])
    assert expected[:, 0].min() < 1e-14
    assert_close(kernel("measure_delta", base, delta)["js"], expected[:, 0])
    adapted = (base.double() + delta).to(dtype)
    expected = np.array([by_mpmath(*token) for token in zip(base, adapted.double() - base.double(), strict=True)])
    assert_close(kernel("measure_difference", base, adapted)["js"], expected[:, 0])
    assert_close(kernel("kl_divergence", base, adapted, torch.arange(7)), expected[:, 1])


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("width", slow_but([1, 3, 64, 257, 4096, 14336], 1, 3, 64, 257))
def test_measures_are_those_of_the_reference(kernel: Run, dtype: torch.dtype, width: int) -> None:
    base, delta = states(9, width, dtype, seed=1)
    output = (base + delta).to(dtype)
    found = kernel("measure_delta", base, delta, output=output)
    assert_close(found["js"], jensen_shannon(base, delta))
    reference = _reduce_in_torch(base, delta)
    for name in ("base_norm", "delta_norm", "effective_width"):
        assert_close(found[name], getattr(reference, name), name=name)
    assert torch.equal(found["swallowed"], _swallowed_share(base, delta, output))
    assert torch.equal(kernel("measure_delta", base, delta)["swallowed"], found["swallowed"])


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(
    ("width", "rank"), slow_but([(1, 1), (70, 3), (576, 8), (576, 16), (129, 64), (64, 512)], (1, 1), (70, 3))
)
def test_delta_is_formed_of_a_factor(kernel: Run, dtype: torch.dtype, width: int, rank: int) -> None:
    generator = torch.Generator().manual_seed(rank)
    base = torch.randn(5, width, generator=generator).to(dtype) * 3
    z = (torch.randn(5, rank, generator=generator) * torch.logspace(-7, 1, 5)[:, None]).to(torch.float32)
    weight, bias = torch.randn(width, rank, generator=generator), torch.randn(width, generator=generator) * 1e-9
    delta = 0.5 * (z.double() @ weight.double().T + bias.double())
    found = kernel("measure_factor", base, z, weight.T.contiguous(), bias, scaling=0.5)
    # A sum of `rank` products is off by `rank` roundings of its terms at most, by their root as a rule.
    rtol = 1e-6 if rank <= 16 else 1e-6 + 2 * 6e-8 * math.sqrt(rank)
    assert_close(found["js"], jensen_shannon(base.double(), delta), rtol=rtol)
    assert_close(found["delta_norm"], torch.linalg.vector_norm(delta, dim=-1), rtol=rtol)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_rough_exponentials_are_enough(rough: Run, dtype: torch.dtype) -> None:
    for width in (2, 576):
        base, delta = states(7, width, dtype, seed=2)
        assert_close(rough("measure_delta", base, delta)["js"], jensen_shannon(base, delta))


def test_deltas_that_move_everything(kernel: Run) -> None:
    base = torch.tensor([[0.0, 500.0], [-800.0, 0.0], [0.0, 0.0], [5.0, 5.0], [-0.01, 0.1]])
    delta = torch.tensor([[1000.0, 0.0], [805.0, 0.0], [1e-8, -1e-8], [3.0, 3.0], [54.44596, 332.13733]])
    assert_close(kernel("measure_delta", base, delta)["js"], jensen_shannon(base, delta))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("spread", [0.1, 5.0])
def test_a_shift_of_all_features_takes_no_digits(kernel: Run, dtype: torch.dtype, spread: float) -> None:
    """Output minus base isn't a float32 then: its rounding to 1e-6 would be 1e-5 of a spread of 0.1."""
    generator = torch.Generator().manual_seed(7)
    base, delta = torch.randn(2, 6, 70, generator=generator)
    base, output = base.to(dtype), (base.to(dtype) + 20 + spread * delta).to(dtype)
    exact = output.double() - base.double()
    assert dtype != torch.float32 or (exact != exact.float()).any()
    assert_close(kernel("measure_difference", base, output)["js"], jensen_shannon(base, exact))
    expected = kl_divergence(base[None].double(), output[None].double(), torch.arange(6))
    assert_close(kernel("kl_divergence", base, output, torch.arange(6)), expected)


def test_no_delta_no_divergence(kernel: Run) -> None:
    base = torch.randn(3, 100)
    found = kernel("measure_factor", base, torch.randn(3, 4), torch.zeros(4, 100), scaling=2.0, output=base)
    assert (found["js"] == 0).all()
    assert (found["delta_norm"] == 0).all()
    assert (found["excess"] == 0).all()


@pytest.mark.parametrize("what", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_told(kernel: Run, what: float) -> None:
    base, delta = torch.randn(4, 100), torch.randn(4, 100)
    base[1, 70], delta[2, 99] = what, what
    found = kernel("measure_delta", base, delta)
    for name, expected in (
        ("js", [False, True, True, False]),
        ("base_norm", [False, True, False, False]),
        ("effective_width", [False, True, False, False]),
        ("delta_norm", [False, False, True, False]),
    ):
        assert torch.isnan(found[name]).tolist() == expected, name
    assert torch.isnan(kernel("kl_divergence", base, base + delta, torch.arange(4))).tolist() == [
        False,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("largest", [1e-30, 1e30])
def test_norms_leave_no_range(kernel: Run, largest: float) -> None:
    base, delta = torch.full((1, 100), largest), torch.full((1, 100), -largest)
    found = kernel("measure_delta", base, delta)
    assert_close(found["base_norm"], [10 * base[0, 0].item()])
    assert_close(found["delta_norm"], [10 * base[0, 0].item()])
    assert found["js"].item() == 0


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_excess_is_that_of_the_reference(kernel: Run, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(4)
    base = torch.randn(3, 100, generator=generator).to(dtype)
    z, weight = torch.randn(3, 4, generator=generator).to(dtype), torch.randn(100, 4, generator=generator)
    delta = 2 * (z.float() @ weight.T)
    for change in (1.0, 1.5):
        output = (base + delta * change).to(dtype)
        size = factor_size(z, weight, None, 2.0)
        each = (tensor[:, None] for tensor in (base, delta, size, output))
        expected = excess(*each, n_roundings=8, dtype=dtype)
        found = kernel("measure_factor", base, z, weight.T.contiguous(), scaling=2.0, output=output)["excess"]
        assert ((found > 1) == (change > 1)).all()
        # Two sums of delta in float32 differ by less than what is allowed to the layer's, in proportion of the types.
        atol = torch.finfo(torch.float32).eps / torch.finfo(dtype).eps
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=atol)
    given = kernel("measure_delta", base, delta, output=output, dtype=dtype)["excess"]
    size = base.float().abs() + 2 * delta.abs()
    each = (tensor[:, None] for tensor in (base, delta, size, output))
    assert_close(given, excess(*each, n_roundings=4, dtype=dtype), rtol=1e-5)


def test_excess_of_what_is_not_finite(kernel: Run) -> None:
    base, delta = torch.ones(5, 10, dtype=torch.float16), torch.ones(5, 10)
    output = (base + delta).half()
    base[0, 1], output[1, 2], delta[2, 3] = math.inf, math.nan, math.nan
    base[3, 4], delta[3, 4], output[3, 4] = 6e4, 6e4, math.inf
    found = kernel("measure_delta", base, delta, output=output)["excess"]
    assert found[[0, 3, 4]].tolist() == [0, 0, 0]
    assert torch.isnan(found[[1, 2]]).all()


def test_only_some_programs_prove(kernel: Run) -> None:
    base, delta = torch.zeros(100, 64), torch.ones(100, 64)
    found = kernel("measure_delta", base, delta, output=base, prove_every=3)["excess"]
    assert (found[:32] > 1).all()
    assert (found[32:96] == 0).all()
    assert (found[96:] > 1).all()


def test_rows_and_strides(kernel: Run) -> None:
    base, delta = states(7, 128, torch.bfloat16)
    rows = torch.tensor([5, 0, 5])
    whole, chosen = kernel("measure_delta", base, delta), kernel("measure_delta", base, delta, rows=rows)
    for name in whole:
        assert torch.equal(chosen[name], whole[name][rows]), name
    wide = torch.cat([base, base], dim=1)[:, :128]
    assert torch.equal(kernel("measure_delta", wide, delta)["js"], whole["js"])
    assert len(kernel("measure_delta", base[:0], delta[:0])["js"]) == 0


@pytest.mark.parametrize(
    ("dtype", "width"),
    slow_but([*((dtype, 100) for dtype in TYPES), (torch.float32, 128256)], *((d, 100) for d in TYPES)),
)
def test_logits_of_a_vocabulary(kernel: Run, dtype: torch.dtype, width: int) -> None:
    generator = torch.Generator().manual_seed(5)
    base = torch.randn(3, width, generator=generator) * 3
    adapted = (base + torch.randn(3, width, generator=generator) * torch.tensor([[1e-3], [1.0], [10.0]])).to(dtype)
    base = base.to(dtype)
    rows, ids = torch.tensor([2, 0, 2, 1]), torch.tensor([7, width - 1, 0, 3])
    found = kernel("kl_divergence", base, adapted, rows)
    assert_close(found, kl_divergence(base[None].double(), adapted[None].double(), rows))
    for logits in (base, adapted):
        expected = torch.nn.functional.cross_entropy(logits.double()[rows], ids, reduction="none")
        assert_close(kernel("token_nll", logits, rows, ids), expected)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_tokens_that_cannot_come(kernel: Run, dtype: torch.dtype) -> None:
    """Some models give them a logit of minus infinity."""
    logits = torch.randn(5, 70, generator=torch.Generator().manual_seed(6)).to(dtype)
    logits[0, 3:] = logits[1, 5] = logits[4] = -math.inf
    logits[2, 9], logits[3, 9] = math.nan, math.inf
    rows, ids = torch.arange(5), torch.tensor([1, 5, 0, 0, 0])
    found, expected = kernel("token_nll", logits, rows, ids), token_nll(logits.double(), rows, ids)
    assert_close(found, expected)
    assert torch.isnan(found).tolist() == [False, False, True, True, True]
    assert found[1] == math.inf


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield benchmark("gpu_model")


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90, 100])
@pytest.mark.parametrize(("rank", "given"), [(16, "bf16"), (0, "fp32")], ids=["factor", "delta"])
def test_compiled_kernel_spills_nothing(model: ModuleType, arch: int, rank: int, given: str) -> None:
    machine = model.compile_rows(arch, 4096, rank=rank, given=given)
    assert machine.spills == 0
    assert machine.local_bytes == 0
    if arch == 90:  # whose card the bar is set for
        counts = model.counts_a_value(machine, 4096, rank)
        assert min(model.rates(counts, 4, arch).values()) >= 150


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90, 100])
def test_compiled_kernel_of_logits_spills_nothing(model: ModuleType, arch: int) -> None:
    types = {"result": "*fp32", "logits": "*bf16", "rows": "*i64", "ids": "*i64", "stride": "i32", "n_tokens": "i32"}
    tokens, features = block_shape(128256)
    constants = {"WIDTH": 128256, "TOKENS": tokens, "FEATURES": features}
    machine = model.compiled(nll_rows, types, constants, arch, OPTIONS, {"result", "logits", "stride", "rows", "ids"})
    assert machine.spills == machine.local_bytes == 0
