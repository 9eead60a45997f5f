import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from lorascope.analyze import measure_information, open_result
from lorascope.analyze.information import sufficient_rows
from lorascope.analyze.results.format import format_number
from lorascope.cli import screen
from lorascope.cli.commands.mi import MANY, _quartiles, _shorten_paths, _test_claims
from lorascope.cli.main import main
from lorascope.stores import Run, open_run

from ..stored import store_states
from .called import call, flat

QUICK = ("--n-tokens", 200, "--shuffles", 1, "--axes", 2)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen.console, "width", 200)


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code, out, err = call("mi", capsys, *words)
    return code, flat(out), err


@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three components: the adapter does nothing in the second, and changes the third strongly."""
    rng = np.random.default_rng(0)
    base, delta = rng.normal(size=(2, 240, 4))
    states = {
        "model.layers.10.self_attn.q_proj": (base, 0.1 * delta),
        "model.layers.10.self_attn.k_proj": (base, np.zeros_like(delta)),
        "model.layers.11.mlp.down_proj": (base, 20 * delta),
    }
    path = tmp_path_factory.mktemp("some") / "run.zarr"
    store_states(path, states, lengths=[12] * 20, d_in=12)
    return path


@pytest.fixture(scope="module")
def opened(some: Path) -> Run:
    return open_run(some)


def test_the_conclusion_comes_first_and_then_one_table(
    capsys: pytest.CaptureFixture[str], some: Path, opened: Run
) -> None:
    code, out, _ = run(capsys, some, "--shuffles", 3)
    assert code == 0
    values = measure_information(opened, n_shuffles=3)["value"].sel(estimator="panel").values
    said = (
        "mutual information of base and lora, median and quartiles of 3 components, by panel: "
        f"{format_number(np.median(values))} nat ("
    )
    assert said in out
    assert "of whole states it is infinite in 3 of 3 components, since base and lora share directions exactly" in out
    assert "┃ model.layers.… ┃ MI (nat) ┃ p ┃ axes ┃ tokens ┃ verdict ┃" in out
    assert values[2] < min(values[:2])
    places = [out.index(word) for word in (said, "…10.self_attn.k_proj", "…10.self_attn.q_proj", "…11.mlp.down_proj")]
    assert places == sorted(places)
    assert "│ 0.25 │ 4+4 │ 240 │" in out
    assert "ksg_copula:" not in out


def test_all_that_qualifies_numbers_is_told_in_full(capsys: pytest.CaptureFixture[str], some: Path) -> None:
    code, out, _ = run(capsys, some, "--shuffles", 3, "--full")
    assert code == 0
    assert "radial_ksg: " in out
    assert "p: of 3 shuffles of samples, whose mean is at most" in out
    assert "axes keep, in the median component, 100.0 % of base's variance and 100.0 % of lora's" in out
    _, out, _ = run(capsys, some, "--shuffles", 0, "--full", "--estimator", "gaussian")
    assert "no shuffles: no p, and the bias of noise curves isn't taken off" in out


def test_a_screen_has_the_largest_components(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, some: Path
) -> None:
    monkeypatch.setattr(screen, "TOP", 2)
    monkeypatch.setattr(screen, "MOST_ROWS", 2)
    words = (some, "--estimator", "gaussian", *QUICK)
    _, out, _ = run(capsys, *words)
    assert "mutual information of base and lora, by gaussian, the 2 largest of 3 (--full or --out: all)" in out
    assert out.count("│ 2+2 │") == 2
    assert run(capsys, *words, "--full")[1].count("│ 2+2 │") == 3


@pytest.mark.parametrize("words", [(), ("--bound",), ("--against", "delta", "--component", "*.1?.*.[qd]*", "--bound")])
def test_tables_fit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, some: Path, words: tuple[str, ...]
) -> None:
    monkeypatch.setattr(screen.console, "width", 80)
    assert main(["mi", str(some), "--shuffles", "3", *words, "--full"]) == 0
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if line[:1] == "│"]
    assert max(map(len, rows)) <= 80
    # None is broken into two, whose second would begin or end with nothing.
    assert all(cell.strip() for line in rows for cell in line[1:-1].split("│")), out


def test_a_quick_screen_has_two_estimates_with_errors_and_no_verdict(
    capsys: pytest.CaptureFixture[str], some: Path, opened: Run, tmp_path: Path
) -> None:
    code, out, _ = run(capsys, some, "--quick", "--out", tmp_path / "r.nc")
    assert code == 0
    assert "mutual information of base and lora, a screen of two estimates without verdict" in out
    assert "┃ axes ┃ tokens ┃" in out
    result = measure_information(opened, estimator=["gaussian_copula", "ksg_copula"], n_shuffles=0)
    assert all(f"│ {value:.1f}"[:-2] in out for value in result["value"].sel(estimator="ksg_copula").values)
    assert "│ ∞ │" in out
    assert all(f"{name}: " in out for name in ("gaussian_copula", "ksg_copula"))
    assert "panel" not in out
    n_over = int((result["value"].sel(estimator="gaussian_copula") > 2 * np.log(result["n_tokens"])).sum())
    assert 0 < n_over < result.sizes["component"]
    for more in ((), ("--unit", "bit")):
        shown = out if not more else run(capsys, some, "--quick", *more)[1]
        assert f"can check, and may be too high, in {n_over} of {result.sizes['component']} components" in shown
    with open_result(tmp_path / "r.nc") as saved:
        np.testing.assert_array_equal(saved["se"].values, result["se"].values)
        assert "verdict" not in saved
    code, out, _ = run(capsys, some, "--quick", "--json")
    assert code == 0
    assert "verdict" not in out


def test_many_components_are_estimated_by_processes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    states = {f"m.{i}": tuple(rng.normal(size=(2, 240, 4))) for i in range(MANY + 1)}
    store_states(tmp_path / "run.zarr", states, lengths=[12] * 20)
    words, seconds = (tmp_path / "run.zarr", "--estimator", "gaussian", "--workers", 1), []
    for name, more in (("p.nc", ()), ("t.nc", ("--scheduler", "threads"))):
        before = os.times().children_user
        assert run(capsys, *words, "--out", tmp_path / name, *more)[0] == 0
        seconds.append(os.times().children_user - before)
    assert seconds[0] > 0.1
    assert seconds[1] == 0
    with open_result(tmp_path / "p.nc") as processes, open_result(tmp_path / "t.nc") as threads:
        np.testing.assert_array_equal(processes["value"].values, threads["value"].values)


def test_components_without_values_are_told(capsys: pytest.CaptureFixture[str], some: Path) -> None:
    code, out, _ = run(capsys, some, "--against", "delta", *QUICK)
    assert code == 1
    assert "1 of 3 components lack values:" in out
    assert "model.layers.10.self_attn.k_proj: `delta`: the 240 tokens are all equal; they have no axes" in out
    assert "│ …10.self_attn.k_proj │ n/a │ n/a │ 0+0 │ 0 │ - │" in out
    code, out, _ = run(capsys, some, "--against", "delta", "--component", "*.k_proj", "--bound", *QUICK)
    assert code == 1
    assert "median and quartiles of 1 component, by panel: n/a nat (n/a to n/a); no component has a value" in out


def test_undersampled_says_how_many_tokens_would_do(
    capsys: pytest.CaptureFixture[str], some: Path, opened: Run
) -> None:
    _, out, _ = run(capsys, some, "--shuffles", 1, "--component", "*.down_proj")
    rows = sufficient_rows(measure_information(opened, n_shuffles=1, component="*.down_proj"))
    n = format_number(rows.sel(estimator="panel").item(), digits=2)
    assert n not in ("n/a", "240")
    assert f"undersampled: about {n} to {n} tokens a component would do (quartiles), if errors" in out


def test_bound_compares_miub_with_mutual_information(
    capsys: pytest.CaptureFixture[str], some: Path, opened: Run
) -> None:
    code, out, _ = run(capsys, some, "--bound", "--shuffles", 3)
    assert code == 0
    assert "MIUB ≥ MI, the paper's claim, fails in 2, open in 0, holds in 1" in out
    assert "true of every pair are JS(P,Q) ≤ MI/2 and MI ≥ Xi (docs/mi-and-js.md)" in out
    assert "by panel (nat) ┏" in out
    assert "┃ MIUB ┃ MI ┃ (P,Q) ┃ Xi ┃ ≥ MI ┃" in out
    result = measure_information(opened, estimator=("panel", "classifier"), n_shuffles=3)
    for name in ("js", "js_joint"):
        assert all(f"│ {format_number(value)} │" in out for value in result[name].values)


def test_bound_against_delta_is_no_miub(capsys: pytest.CaptureFixture[str], some: Path, opened: Run) -> None:
    code, out, _ = run(capsys, some, "--bound", "--against", "delta", "--component", "*.down_proj", "--shuffles", 3)
    assert code == 0
    options: dict[str, Any] = {"component": ["*.down_proj"], "against": "delta", "n_shuffles": 0}
    js = measure_information(opened, **options)["js_delta_alone"].item()
    assert f"│ {js:.3f} │" in out
    assert "JS alone ≥ MI " in out
    for word in ("MIUB", "the paper's claim"):
        assert word not in out


@pytest.mark.parametrize(
    ("known", "word"),
    [
        ({"value": 1.0, "low": 0.6, "high": 1.4}, "fails"),
        ({"value": 1.0, "low": 0.4, "high": 1.4}, "open"),
        ({"value": 0.3, "low": 0.2, "high": 0.4}, "holds"),
        ({"value": 0.5, "low": 0.5, "high": 0.5}, "open"),
        ({"value": 9.0, "certified": 0.6}, "fails"),
        ({"value": 9.0, "certified": 0.4}, "open"),
        ({"value": 9.0}, "open"),
        ({"value": np.inf}, "fails"),
        ({"value": np.nan}, "n/a"),
    ],
)
def test_whether_the_bound_holds(known: dict[str, float], word: str) -> None:
    known = {"low": np.nan, "high": np.nan, "certified": np.nan, **known}
    columns = {"value": (known["value"], 1.0), "low": (known["low"], known["certified"]), "high": (known["high"],) * 2}
    result = xr.Dataset(
        {name: (("component", "estimator"), np.array([pair])) for name, pair in columns.items()}
        | {"js": ("component", [0.5])},
        coords={"component": ["m.a"], "estimator": ["panel", "classifier"]},
        attrs={"against": "lora"},
    )
    assert _test_claims(result).tolist() == [word]


def test_unfinished_runs_and_tokens_that_arent_finite(
    capsys: pytest.CaptureFixture[str], unfinished: Path, tmp_path: Path
) -> None:
    code, out, _ = run(capsys, unfinished, "--estimator", "gaussian", "--full", *QUICK)
    assert code == 0
    assert "tokens are of 2 of the run's 3 rows; others aren't committed, or keep no states" in out
    rng = np.random.default_rng(0)
    base, delta = rng.normal(size=(2, 240, 4))
    base[20], delta[20], base[7] = base[3], delta[3], np.inf
    store_states(tmp_path / "run.zarr", {"m.a": (base, delta)}, lengths=[12] * 20)
    code, out, _ = run(capsys, tmp_path / "run.zarr", "--shuffles", 1, "--full")
    assert code == 0
    assert "repeated states were excluded in 1 of 1 component, at most 1 tokens" in out
    assert "tokens with NaN or infinity were excluded in 1 of 1 component, at most 1 tokens" in out
    assert "│ 238 │" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--bound", "--unit", "bit"], "`--bound` compares nats with nats, and `--unit` is 'bit'; leave it out"),
        (["--export", "p.npz", "--bound"], "`--export` writes pairs and estimates nothing; leave `--bound` out"),
        (["--export", "p.npz", "--k", 5, "--full"], "estimates nothing; leave `--full`, `--k` out"),
        (["--export", "p.npz", "--quick"], "estimates nothing; leave `--quick` out"),
        (["--quick", "--bound", "--shuffles", 5], "two estimates, without shuffles; leave `--bound`, `--shuffles` out"),
        (
            ["--quick", "--estimator", "ksg1"],
            "`--quick` makes two estimates, without shuffles; leave `--estimator`",
        ),
        (["--tokens", "frst:3"], "`tokens` is 'frst:3'; allowed are 'all', 'prompt', "),
        (["--against", "base"], 'Invalid value "base" for --against'),
    ],
)
def test_mistakes_are_one_line(
    capsys: pytest.CaptureFixture[str], some: Path, words: list[object], message: str
) -> None:
    code, out, err = run(capsys, some, *words)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err


def test_what_is_saved_is_what_is_computed(
    capsys: pytest.CaptureFixture[str], some: Path, opened: Run, tmp_path: Path
) -> None:
    code, out, _ = run(capsys, some, "--bound", "--seed", 3, "--out", tmp_path / "r.nc", *QUICK)
    assert code == 0
    assert "saved to" in out
    options: dict[str, Any] = {"seed": 3, "n_tokens": 200, "n_shuffles": 1, "n_axes": 2}
    expected = measure_information(opened, estimator=("panel", "classifier"), **options)
    with open_result(tmp_path / "r.nc") as saved:
        for variable in expected.data_vars:
            np.testing.assert_array_equal(saved[variable].values, expected[variable].values)


def test_tokens_are_chosen(capsys: pytest.CaptureFixture[str], some: Path, opened: Run, tmp_path: Path) -> None:
    code, out, _ = run(capsys, some, "--tokens", "from:4", "--out", tmp_path / "r.nc", *QUICK)
    assert code == 0
    assert out.startswith(
        "mutual information of base and lora over the tokens of each sequence from position 4 on, median and quartiles"
    )
    expected = measure_information(opened, tokens="from:4", n_tokens=200, n_shuffles=1, n_axes=2)
    with open_result(tmp_path / "r.nc") as saved:
        np.testing.assert_array_equal(saved["value"].values, expected["value"].values)
        assert (saved.attrs["tokens"], int(saved["n_tokens"][0])) == ("from:4", 160)
    assert run(capsys, some, "--tokens", "last:2", "--export", tmp_path / "p.npz")[0] == 0
    with np.load(tmp_path / "p.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["model.layers.11.mlp.down_proj/token"] % 12, [10, 11] * 20)


def test_pairs_are_exported(capsys: pytest.CaptureFixture[str], some: Path, tmp_path: Path) -> None:
    code, out, _ = run(capsys, some, "--export", tmp_path / "p.npz")
    assert code == 0
    assert out.endswith(f"pairs to {tmp_path / 'p.npz'}")
    with np.load(tmp_path / "p.npz", allow_pickle=False) as file:
        assert file["model.layers.11.mlp.down_proj/x"].shape == (240, 4)
    code, out, _ = run(capsys, some, "--export", tmp_path / "q.npz", "--against", "delta")
    assert code == 1
    assert f"pairs to {tmp_path / 'q.npz'}, except 1 component:" in out
    assert "model.layers.10.self_attn.k_proj: `delta`: the 240 tokens are all equal; they have no axes" in out


def test_discrete_states_arent_called_infinite(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Embeddings, and what reads them before any attention: functions of the token id."""
    rng = np.random.default_rng(0)
    base, delta = rng.normal(size=(2, 240, 4))
    repeated = [np.concatenate([side[:230], side[:10]]) for side in (base, delta)]
    states = {
        "model.embed_tokens": (base, delta),
        "m.0.q_proj": (repeated[0], repeated[1]),
        "m.1.q_proj": (delta, base),
    }
    store_states(tmp_path / "run.zarr", states, lengths=[12] * 20)
    code, out, _ = run(capsys, tmp_path / "run.zarr", "--shuffles", 1, "--axes", 2)
    assert code == 0
    assert "of whole states it is infinite in 1 of 3 components" in out


def test_medians_lie_between_two_values_unless_one_is_infinite() -> None:
    assert _quartiles(np.array([0.1, 0.2, 0.3, 0.4, np.nan])) == ("0.175", "0.250", "0.325")
    assert _quartiles(np.array([0.2, 0.3, np.inf, np.inf])) == ("0.300", "∞", "∞")
    assert _quartiles(np.array([np.nan])) == ("n/a", "n/a", "n/a")


@pytest.mark.parametrize(
    ("paths", "header", "names"),
    [
        (["m.a"], "component", ["m.a"]),
        (["m.a", "m.b"], "m.…", ["…a", "…b"]),
        (["m.0.a", "n.0.a"], "component", ["m.0.a", "n.0.a"]),
        (["m.l.1.a", "m.l.10.a"], "m.l.…", ["…1.a", "…10.a"]),
        (["m", "m.a"], "component", ["m", "m.a"]),
        (["m.a", "m.a.b"], "m.…", ["…a", "…a.b"]),
    ],
)
def test_names_are_shortened_by_what_all_begin_with(paths: list[str], header: str, names: list[str]) -> None:
    assert _shorten_paths(paths) == (header, names)
