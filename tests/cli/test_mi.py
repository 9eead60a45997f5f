from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from lorascope.analyze import measure_information, open_result
from lorascope.analyze.format import format_error, format_number
from lorascope.analyze.information.verdicts import VERDICTS
from lorascope.cli import screen
from lorascope.cli.information.bound import print_bound
from lorascope.cli.information.rows import listed
from lorascope.cli.information.tables import _print_counted as print_counted
from lorascope.cli.main import main
from lorascope.stores import Run, open_run

from ..stored import store_states
from .called import call, flat

QUICK = ("--tokens", 200, "--shuffles", 1, "--axes", 2)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen.console, "width", 200)


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code, out, err = call("mi", capsys, *words)
    return code, flat(out), err


@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three components, the second of which has an adapter that does nothing, and the third a strong one."""
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


def test_values_are_listed_largest_first(capsys: pytest.CaptureFixture[str], some: Path, opened: Run) -> None:
    code, out, _ = run(capsys, some, "--shuffles", 3, "--top", 2)
    assert code == 0
    assert "mutual information of base and lora: the 2 largest of 3 components" in out
    assert "┃ model.layers.10.self_attn.… ┃ MI (nat) ┃ p ┃ axes ┃ n ┃ verdict ┃" in out
    result = measure_information(opened, n_shuffles=3)
    values = result["value"].sel(estimator="panel").values
    assert values[2] < min(values[:2])
    assert out.index("…k_proj") < out.index("…q_proj")
    assert "│ 0.25 │ 4+4 │ 240 │" in out
    assert "p: how many of 3 shuffles of samples reach it, both with one more; their mean, at most" in out
    assert "by estimator, over 3 components" in out
    assert "panel, of 3 components: " in out
    assert "of the variance axes keep, in the median component, 100.0 % of base's (100.0 % at least) and" in out


@pytest.mark.parametrize("width", [80, 100])
def test_tables_fit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, some: Path, width: int
) -> None:
    monkeypatch.setattr(screen.console, "width", width)
    for words in ((), ("--bound",), ("--against", "delta", "--component", "*.1?.*.[qd]*", "--bound")):
        assert main(["mi", str(some), "--shuffles", "3", *words]) == 0
        out = capsys.readouterr().out
        rows = [line for line in out.splitlines() if line[:1] == "│"]
        assert max(map(len, rows)) <= width
        # None is broken into two, whose second would begin or end with nothing.
        assert all(cell.strip() for line in rows for cell in line[1:-1].split("│")), out


def test_units(capsys: pytest.CaptureFixture[str], some: Path, opened: Run) -> None:
    code, out, _ = run(capsys, some, "--unit", "bit", "--estimator", "gaussian", "--shuffles", 0)
    assert code == 0
    result = measure_information(opened, estimator="gaussian", n_shuffles=0, unit="bit")
    value, se = (
        float(result[name].sel(component="model.layers.10.self_attn.q_proj").item()) for name in ("value", "se")
    )
    assert f"│ {format_error(value, se)} │" in out
    assert "MI (bit)" in out
    assert "no shuffles: no p, and the panel's and noise's bias isn't taken off" in out
    assert "MI: by gaussian, ± standard error of the noise; axes of base + lora" in out
    assert "│ n/a │" in out
    assert "by estimator" not in out
    assert "gaussian, of 3 components: " in out


def test_a_single_component_has_every_estimator_by_value(capsys: pytest.CaptureFixture[str], some: Path) -> None:
    code, out, _ = run(capsys, some, "--component", "*.down_proj", "--shuffles", 2)
    assert code == 0
    assert "┃ estimator ┃ MI (nat) ┃ p ┃ shuffled ┃ verdict ┃" in out
    assert "mutual information of base and lora: 1 component ┏" in out
    assert "model.layers.11.mlp.down_proj" in out


def test_estimators_of_whole_states_have_no_axes(capsys: pytest.CaptureFixture[str], some: Path) -> None:
    code, out, _ = run(capsys, some, "--estimator", "argmax", "--estimator", "soft_index", *QUICK)
    assert code == 0
    assert "│ all │ 200 │" in out
    assert "MI: by argmax, ± standard error" in out
    assert "their mean is at most" in out
    assert "of the variance axes keep" not in out
    assert "values are of symbols made of them, and less than all" in out


def test_blocks_are_listed_by_number(capsys: pytest.CaptureFixture[str], some: Path) -> None:
    code, out, _ = run(capsys, some, "--blocks", 2, *QUICK, "--top", 6)
    assert code == 0
    assert "mutual information of base and lora: 6 blocks" in out
    for name in ("…10.self_attn.q_proj [0]", "…10.self_attn.q_proj [1]", "…11.mlp.down_proj [1]"):
        assert name in out
    assert "infinite in 3 of 3 components" in out


def test_what_base_and_lora_share_is_told(capsys: pytest.CaptureFixture[str], some: Path) -> None:
    words = "base and lora share nearly all directions, so that most estimates say that there is much and not how much"
    code, out, _ = run(capsys, some, "--component", "*.self_attn.*", *QUICK)
    assert code == 0
    assert words in out
    assert "--against delta asks what the adapter's own change has to do with base" in out
    assert (
        "of whole states mutual information is infinite in 2 of 2 components, where the layer's input varies "
        "continuously: base and lora share directions exactly"
    ) in out
    code, out, _ = run(capsys, some, "--component", "*.q_proj", "--against", "delta", *QUICK)
    assert words not in out
    assert "mutual information of base and delta" in out


def test_components_without_values_are_told(capsys: pytest.CaptureFixture[str], some: Path) -> None:
    code, out, _ = run(capsys, some, "--against", "delta", *QUICK)
    assert code == 1
    assert "1 of 3 components has no values, or not all of them:" in out
    assert "model.layers.10.self_attn.k_proj: `delta`: the 240 tokens are all equal; they have no axes" in out
    assert "│ …10.self_attn.k_proj │ n/a │ n/a │ 0+0 │ 0 │ - │" in out
    assert "panel, of 3 components: " in out
    code, out, _ = run(capsys, some, "--against", "delta", "--component", "*.k_proj", "--bound", *QUICK)
    assert code == 1
    assert "panel, of 1 component: none has a value" in out
    assert "│ n/a │" in out


def test_each_reason_is_told_once(capsys: pytest.CaptureFixture[str], many_rows: Path) -> None:
    code, out, _ = run(capsys, many_rows, "--tokens", 12, "--shuffles", 1)
    assert code == 1
    assert "4 of 4 components have no values, or not all of them:" in out
    assert out.count("there are 12 rows for 8 + 8 dimensions; give at least 38, or project to fewer") == 1


def test_bound_compares_miub_with_mutual_information(
    capsys: pytest.CaptureFixture[str], some: Path, opened: Run
) -> None:
    code, out, _ = run(capsys, some, "--bound", "--shuffles", 3)
    assert code == 0
    assert "MIUB and mutual information of base and lora, in nat: 3 components" in out
    assert "┃ MIUB ┃ MI (panel) ┃ (P,Q) ┃ Xi ┃ ≥ MI ┃" in out
    result = measure_information(opened, estimator=("panel", "classifier"), n_shuffles=3)
    assert "MIUB: mean over the same tokens of JS(softmax(base), softmax(lora))" in out
    assert f"{format_number(result['js'].sum().item())} summed over components" in out
    for joint in result["js_joint"].values:
        assert f"│ {format_number(joint)} │" in out
    assert "MIUB ≥ MI, the paper's claim, over 3 components: fails in 2, open in 0, holds in 1" in out
    assert "true of every pair are JS(P,Q) ≤ MI/2 and MI ≥ Xi" in out
    assert "by estimator, over 3 components" in out


def test_bound_against_delta_is_no_miub(capsys: pytest.CaptureFixture[str], some: Path, opened: Run) -> None:
    code, out, _ = run(capsys, some, "--bound", "--against", "delta", "--component", "*.down_proj", "--shuffles", 3)
    assert code == 0
    options: dict[str, Any] = {"components": ["*.down_proj"], "against": "delta", "n_shuffles": 0}
    js = measure_information(opened, **options)["js_delta_alone"].item()
    assert "JS alone and mutual information of base and delta, in nat: 1 component" in out
    assert "JS alone: mean over the same tokens of JS(softmax(base), softmax(delta))" in out
    assert "JS alone ≥ MI, over 1 component: " in out
    assert "true of every pair are JS(P,Q) ≤ MI/2 and MI ≥ Xi (docs/mi-and-js.md)" in out
    for word in ("MIUB", "the paper's claim", "0 where it does nothing"):
        assert word not in out
    assert f"│ {js:.3f} │" in out


def bound_of(js: float, *, value: float, low: float, high: float, certified: float = np.nan) -> xr.Dataset:
    """A result of one component, as far as the table of the bound looks at it."""
    columns = {"value": (value, 1.0), "low": (low, certified), "high": (high, np.nan), "se": (0.1, 0.1)}
    return xr.Dataset(
        {name: (("component", "estimator"), np.array([pair])) for name, pair in columns.items()}
        | {name: ("component", np.array([number])) for name, number in (("js", js), ("js_joint", 0.1))}
        | {"note": ("component", np.array([""], object))},
        coords={"component": ["m.a"], "estimator": ["panel", "classifier"]},
        attrs={"against": "lora"},
    )


@pytest.mark.parametrize(
    ("known", "word"),
    [
        ({"value": 1.0, "low": 0.6, "high": 1.4}, "fails"),
        ({"value": 1.0, "low": 0.4, "high": 1.4}, "open"),
        ({"value": 0.3, "low": 0.2, "high": 0.4}, "holds"),
        ({"value": 0.5, "low": 0.5, "high": 0.5}, "open"),
        ({"value": 9.0, "low": np.nan, "high": np.nan, "certified": 0.6}, "fails"),
        ({"value": 9.0, "low": np.nan, "high": np.nan, "certified": 0.4}, "open"),
        ({"value": 9.0, "low": np.nan, "high": np.nan}, "open"),
        ({"value": np.inf, "low": np.nan, "high": np.nan}, "fails"),
        ({"value": np.nan, "low": np.nan, "high": np.nan}, "n/a"),
    ],
)
def test_whether_the_bound_holds(capsys: pytest.CaptureFixture[str], known: dict[str, float], word: str) -> None:
    print_bound(bound_of(0.5, **known), 10)
    out = " ".join(capsys.readouterr().out.split())
    assert f"│ {word} │" in out
    counts = {name: int(name == word) for name in ("fails", "open", "holds")}
    assert ", ".join(f"{name} in {n}" for name, n in counts.items()) in out


def test_several_adapters_are_side_by_side(capsys: pytest.CaptureFixture[str], two_adapters: Path) -> None:
    code, out, _ = run(capsys, two_adapters, "--adapter", "b", "--adapter", "a", *QUICK)
    assert code == 0
    assert "mutual information of base and lora (panel, nat): 4 components" in out
    assert "┃ model.layers.… ┃ b ┃ a ┃" in out
    assert "by adapter, over all its components" in out
    assert out.index("adapter b") < out.index("adapter a")
    code, bound, _ = run(capsys, two_adapters, "--adapter", "b", "--adapter", "a", "--bound", *QUICK)
    assert bound.count("MIUB and mutual information of base and lora") == 2
    words = ("--estimator", "gaussian", "--estimator", "argmax")
    code, out, _ = run(capsys, two_adapters, "--adapter", "b", "--adapter", "a", *words, *QUICK)
    assert out.count("by estimator, over 4 components") == out.count("│ argmax │") == 2
    code, _, err = run(capsys, two_adapters)
    assert code == 2
    assert "`adapter` isn't given, and this run holds several; name one of ['a', 'b']" in err


def test_unfinished_runs_and_tokens_that_arent_finite(
    capsys: pytest.CaptureFixture[str], unfinished: Path, tmp_path: Path
) -> None:
    code, out, _ = run(capsys, unfinished, "--estimator", "gaussian", *QUICK)
    assert code == 0
    assert "tokens are of 2 of the run's 3 rows; others aren't committed, or keep no states" in out
    rng = np.random.default_rng(0)
    base, delta = rng.normal(size=(2, 240, 4))
    base[20], delta[20], base[7] = base[3], delta[3], np.inf
    store_states(tmp_path / "run.zarr", {"m.a": (base, delta)}, lengths=[12] * 20)
    code, out, _ = run(capsys, tmp_path / "run.zarr", "--shuffles", 1)
    assert code == 0
    assert (
        "repeated states were left out in 1 of 1 component, at most 1 of 240 tokens: tokens of one id are alike" in out
    )
    assert "tokens with NaN or infinity were left out in 1 of 1 component, at most 1 of 240 tokens" in out
    assert "│ 238 │" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x", "--top", 0], "`top` is 0; give at least 1"),
        (["x", "--workers", 0], "`workers` is 0; give at least 1"),
        (["x", "--bound", "--unit", "bit"], "`bound` compares nats with nats, and `unit` is 'bit'; leave it out"),
        (["x", "--bound", "--blocks", 2], "`bound` is about whole components, and `blocks` is 2; leave it out"),
        (["x", "--export", "p.npz", "--bound"], "`export` writes pairs and estimates nothing; leave `bound` out"),
        (["x", "--export", "p.npz", "--k", 5, "--top", 3], "estimates nothing; leave `k`, `top` out"),
        (["x", "--export", "p.npz", "--estimator", "ksg1"], "estimates nothing; leave `estimator` out"),
        (["x", "--export", "p.npz", "--norm", "euclidean"], "estimates nothing; leave `norm` out"),
        (["x", "--export", "p.npz", "--unit", "bit", "--shuffles", 0], "leave `unit`, `shuffles` out"),
        (["x", "--export", "p.npz", "--out", "r.nc"], "estimates nothing; leave `out` out"),
        (["x", "--export", "p.npy"], "`export` is 'p.npy'; its name must end in .npz"),
        (["x", "--out", "r.txt"], "its name must end in .zarr (Zarr) or .nc (NetCDF)"),
        (["x", "--adapter", "a", "--adapter", "a"], "`adapter` is ['a', 'a']; name each once"),
        (["x", "--adapter", "a", "--adapter", "b", "--out", "r.nc"], "`out` takes one adapter, and there are 2"),
        (["x", "--adapter", "a", "--adapter", "b", "--export", "p.npz"], "`export` takes one adapter, and there are 2"),
        (["x", "--against", "base"], 'Invalid value "base" for --against'),
        (["x"], "`x` doesn't exist; name a run"),
    ],
)
def test_mistakes_are_one_line_before_the_run_is_opened(
    capsys: pytest.CaptureFixture[str], words: list[object], message: str
) -> None:
    code, _, err = run(capsys, *words)
    assert code == 2
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--component", "q_prj"], "`components` names 'q_prj', which fits none of the 3 that the adapter touches"),
        (
            ["--component", "*.q_proj", "--blocks", 3],
            "`n_blocks` is 3; it must divide the 4 features; near it are [2, 4]",
        ),
        (["--estimator", "ksg9"], "`estimator` names 'ksg9'; allowed are panel,"),
        (["--share", 2], "`share` is 2.0; it must be above 0 and at most 1"),
    ],
)
def test_mistakes_about_a_run(
    capsys: pytest.CaptureFixture[str], some: Path, words: list[object], message: str
) -> None:
    code, out, err = run(capsys, some, *words)
    assert (code, out) == (2, "")
    assert message in err
    assert main(["mi", str(some), *map(str, words)]) == 2
    assert capsys.readouterr().out == ""  # not even an empty line


def test_a_run_without_states(capsys: pytest.CaptureFixture[str], nothing_committed: Path) -> None:
    code, _, err = run(capsys, nothing_committed)
    assert code == 2
    assert "keeps states; there are no tokens to choose from" in err


@pytest.mark.parametrize("name", ["r.nc", "r.zarr"])
def test_what_is_saved_is_what_is_computed(
    capsys: pytest.CaptureFixture[str], some: Path, opened: Run, tmp_path: Path, name: str
) -> None:
    code, out, _ = run(capsys, some, "--bound", "--seed", 3, "--out", tmp_path / name, *QUICK)
    assert code == 0
    assert "saved to" in out
    options: dict[str, Any] = {"seed": 3, "n_tokens": 200, "n_shuffles": 1, "n_axes": 2}
    expected = measure_information(opened, estimator=("panel", "classifier"), **options)
    with open_result(tmp_path / name) as saved:
        for variable in expected.data_vars:
            np.testing.assert_array_equal(saved[variable].values, expected[variable].values)
    code, _, err = run(capsys, some, "--out", tmp_path / name)
    assert code == 2
    assert "is there already" in err


def test_pairs_are_exported(capsys: pytest.CaptureFixture[str], some: Path, tmp_path: Path) -> None:
    code, out, _ = run(capsys, some, "--export", tmp_path / "p.npz")
    assert code == 0
    assert f"pairs of 3 components to {tmp_path / 'p.npz'}" in out
    with np.load(tmp_path / "p.npz", allow_pickle=False) as file:
        assert file["model.layers.11.mlp.down_proj/x"].shape == (240, 4)
    code, out, _ = run(capsys, some, "--export", tmp_path / "q.npz", "--against", "delta")
    assert code == 1
    assert f"pairs of 3 components to {tmp_path / 'q.npz'}, but for 1:" in out
    assert "model.layers.10.self_attn.k_proj: `delta`: the 240 tokens are all equal; they have no axes" in out
    code, _, err = run(capsys, some, "--export", tmp_path / "q.npz")
    assert code == 2
    assert "is there already; name another, or delete it first" in err
    code, out, _ = run(capsys, some, "--export", tmp_path / "r.npz", "--component", "*.q_proj")
    assert f"pairs of 1 component to {tmp_path / 'r.npz'}" in out
    code, _, err = run(capsys, some, "--export", some / "p.npz")
    assert code == 2
    assert f"p.npz', inside the store `{some}`; name a place outside of it" in err


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
    assert "infinite in 1 of 3 components, where the layer's input varies continuously" in out
    code, out, _ = run(capsys, tmp_path / "run.zarr", "--shuffles", 1, "--axes", 2, "--component", "m.0.*")
    assert "infinite" not in out


def test_medians_lie_between_two_values_unless_one_is_infinite(capsys: pytest.CaptureFixture[str]) -> None:
    def printed(*values: float) -> str:
        print_counted("t", "estimator", [("a", np.array(values), np.array(["ok"] * len(values), object))])
        return " ".join(capsys.readouterr().out.split())

    assert "│ a │ 0.250 │ 0.18 to 0.33 │ 4 │" in printed(0.1, 0.2, 0.3, 0.4)
    assert "│ a │ 0.250 │ 0.18 to 0.33 │ 5 │" in printed(0.1, 0.2, 0.3, 0.4, np.nan)
    assert "│ a │ ∞ │ 0.30 to ∞ │ 4 │" in printed(0.2, 0.3, np.inf, np.inf)
    assert "│ a │ n/a │ n/a to n/a │ 1 │" in printed(np.nan)


def test_verdicts_have_words_on_the_terminal_even_if_new(capsys: pytest.CaptureFixture[str]) -> None:
    for word in VERDICTS:
        print_counted("t", "estimator", [("a", np.array([0.1]), np.array([word], object))])
        assert "│ a │ 0.100 │ 0.10 to 0.10 │ 1 │" in " ".join(capsys.readouterr().out.split())


def test_processes_give_the_same_screen(capsys: pytest.CaptureFixture[str], some: Path) -> None:
    found = [run(capsys, some, *QUICK, *words)[:2] for words in (("--scheduler", "synchronous"), ("--workers", 2))]
    assert found[0] == found[1]


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
    result = xr.Dataset(
        {
            "value": (("component", "estimator"), np.arange(len(paths), 0, -1.0)[:, None]),
            "note": ("component", np.array([""] * len(paths), object)),
        },
        coords={"component": paths, "estimator": ["panel"]},
    )
    found = listed(result, "panel", 10)
    assert (found.header, found.names) == (header, names)
