import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from lorascope.analyze import explain
from lorascope.analyze.measuring.sources import sources_of
from lorascope.analyze.report import write_explanation
from lorascope.analyze.report.explain import Explanation, _driver, ablation_by_part, directions_by_component
from lorascope.analyze.report.paragraph import chosen_component, chosen_site, paragraph
from lorascope.stores import Adapter, Component, Run, RunSpec, StoreError, create_run, open_run
from lorascope.stores.format.spec import ROW_TOKENS

from ...conftest import write_run as write_many
from ...stored import make_unembedding, sample_tables, store_states
from ..conftest import ABLATED, Small
from .test_report import EVIL, FETCHING, Page, page_of, section

WIDTH, RANK = 16, 4


def write_factors(
    path: Path, factors: dict[str, np.ndarray], *, lengths: Sequence[int], ids: np.ndarray | None = None
) -> Run:
    """A finished run of these z (token, rank) by component; B has orthonormal columns, so that |delta| is |z|."""
    rng = np.random.default_rng(0)
    components = tuple(
        Component(
            path=name,
            kind=name.rpartition(".")[2],
            layer=0,
            d_in=WIDTH,
            d_out=WIDTH,
            dtype="float32",
            stored_dtype="float32",
        )
        for name in factors
    )
    n, ranks = len(components), tuple(z.shape[1] for z in factors.values())
    spec = RunSpec(
        stream="adapted",
        components=components,
        adapters=(Adapter(name="default", rank=ranks, scaling=(1.0,) * n, factored=(True,) * n),),
        n_tokens=sum(lengths),
        n_samples=len(lengths),
        n_choices=0,
        attributes={"provenance": {}},
    )
    tables = sample_tables(lengths, ["made"] * len(lengths))
    if ids is not None:
        tables["tokens"]["token_id"] = ids
    tables["tokens"]["text"] = [f" t{index}" for index in np.asarray(tables["tokens"]["token_id"])]
    weights = {
        f"adapters/default/lora_B/{name}": np.linalg.qr(rng.normal(size=(WIDTH, rank)))[0].astype(np.float32)
        for name, rank in zip(factors, ranks, strict=True)
    }
    whole = np.concatenate(list(factors.values()), axis=1).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch, create_run(path, spec, tables=tables, weights=weights) as writer:
        patch.setattr("os.fsync", lambda descriptor: None)  # the slowest part, and no test cuts the power
        for row in range(spec.n_rows):
            tokens = writer.row_tokens(row)
            blocks = {
                key: np.full((tokens.stop - tokens.start, *shape[1:]), np.nan, dtype)
                for key, (shape, dtype) in writer.row_arrays(row).items()
            }
            for key in [key for key in blocks if key.startswith("states/")]:
                blocks[key] = rng.normal(size=blocks[key].shape).astype(np.float32)
            blocks["adapters/default/factor"] = whole[tokens]
            writer.write_row(row, blocks)
        writer.finish({})
    return open_run(path)


def by_component(run: Run) -> xr.Dataset:
    return directions_by_component(run, [one for one in sources_of(run) if one.delta.lora_B is not None])


@pytest.mark.parametrize("options", [{}, {"is_weighted": True}, {"stream": "pair"}], ids=str)
@pytest.mark.parametrize("parts", ["components", "layers", "kinds"])
def test_ablation_is_a_mean_over_samples_that_were_ablated(
    make_small: Callable[..., Small], parts: str, options: dict[str, Any]
) -> None:
    small = make_small(ablate=parts, **options)
    found = ablation_by_part(small.run)
    assert found is not None
    values = small.by_sample(small.run.ablation().values)[np.arange(12) % ABLATED == 0]
    behind = values[:, [values.mean(axis=0).argmax()]] - values
    for name, one in (("kl", values), ("behind", behind)):
        np.testing.assert_allclose(found[name], one.mean(axis=0), rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(found[f"{name}_se"], one.std(axis=0, ddof=1) / np.sqrt(6), rtol=1e-6, atol=1e-12)
    assert found["part"].values.tolist() == small.run.ablation()["part"].values.tolist()
    n_tokens = int(np.isfinite(small.run.ablation().values[:, 0]).sum())
    assert found.attrs == {"parts": parts, "n_samples": 6, "n_tokens": n_tokens}


def test_counts_of_directions_are_those_of_the_whole_delta_and_of_every_other_row(tmp_path: Path) -> None:
    """Of three rows the second has a direction that the others lack."""
    rng = np.random.default_rng(3)
    lengths = [500] * 5
    steep, level = rng.normal(size=(2, 2500, RANK))
    steep *= [1, 0.4, 0.15, 0.01]
    steep[ROW_TOKENS : 2 * ROW_TOKENS, 3] *= 30
    run = write_factors(tmp_path / "run.zarr", {"a.down_proj": steep, "a.up_proj": level}, lengths=lengths)
    found = by_component(run)
    halves = np.arange(2500) // ROW_TOKENS % 2

    def counted(delta: np.ndarray, least: float) -> int:
        squares = np.linalg.svd(delta.astype(np.float64), compute_uv=False)[:RANK] ** 2
        return int((np.cumsum(squares) / squares.sum() < least).sum()) + 1

    for name in run.component_paths:
        delta, one = run.delta(name).values, found.sel(component=name)
        assert (int(one["n_90"]), int(one["n_99"])) == (counted(delta, 0.9), counted(delta, 0.99))
        assert one["n_99_half"].values.tolist() == [counted(delta[halves == half], 0.99) for half in (0, 1)]
        squares = np.linalg.svd(delta, compute_uv=False)[:RANK] ** 2
        assert float(one["first_share"]) == pytest.approx(squares[0] / squares.sum(), rel=1e-5)
    assert found["n_99"].values.tolist() == [4, 4]
    assert found["n_99_half"].values.tolist() == [[3, 4], [4, 4]]
    assert found["kind"].values.tolist() == ["down_proj", "up_proj"]
    assert found.attrs == {"tokens": "all", "n_tokens": 2500}
    first = directions_by_component(run, sources_of(run), np.arange(500))  # of one row, which has no halves
    assert np.isnan(first["n_99_half"]).all()
    assert first.attrs == {"tokens": "500 chosen", "n_tokens": 500}


def test_a_driver_is_the_token_with_the_smallest_chance_of_all_draws() -> None:
    population = np.repeat([2, 5, 9], [5, 3, 2])
    ids, counts = np.unique(population, return_counts=True)
    draws = list(itertools.combinations(population.tolist(), 4))
    for top in (np.array([5, 5, 9, 5]), np.array([9, 9, 2, 2]), np.array([2, 5, 2, 9])):
        chances = {i: np.mean([draw.count(i) >= (top == i).sum() for draw in draws]) for i in np.unique(top).tolist()}
        best = min(chances, key=lambda i: chances[i])
        driver, count, share, chance = _driver(top, ids, counts)
        assert (driver, count, share) == (best, (top == best).sum(), (population == best).mean())
        assert chance == pytest.approx(chances[best])
    assert _driver(np.empty(0, np.int64), ids, counts)[:2] == (-1, 0)


def test_random_directions_of_tokens_that_cluster_have_a_driver_no_more_often_than_p_says(tmp_path: Path) -> None:
    """Tokens of one id have alike z, so that along any direction few ids hold the extremes."""
    rng = np.random.default_rng(1)
    ids = rng.zipf(1.5, 2000) % 200
    factors = {
        f"{n}.down_proj": rng.normal(size=(200, RANK))[ids] + 0.1 * rng.normal(size=(2000, RANK)) for n in range(60)
    }
    run = write_factors(tmp_path / "run.zarr", factors, lengths=[100] * 20, ids=ids)
    n_driven = int((by_component(run)["driver_p"] <= 0.05).sum())
    assert n_driven <= stats.binom(60, 0.05).ppf(0.999)


def test_a_planted_token_drives_and_a_shared_beginning_does_not(tmp_path: Path) -> None:
    """Two components: one acts at id 7, wherever it stands; one at the first token, the same in all samples."""
    rng = np.random.default_rng(4)
    lengths, starts = [30] * 20, np.arange(20) * 30
    ids = rng.integers(100, 150, 600)
    ids[starts] = 3
    places = starts + rng.integers(1, 30, 20)
    ids[places] = 7
    first, second = 0.1 * rng.normal(size=(2, 600, WIDTH))
    first[places, 0] += 5 + rng.random(20)
    second[starts] = 4 * np.eye(WIDTH)[0]
    run = write_factors(tmp_path / "run.zarr", {"a.down_proj": first, "a.up_proj": second}, lengths=lengths, ids=ids)
    found = by_component(run)
    one, other = (found.sel(component=name) for name in run.component_paths)
    scores = first @ np.linalg.svd(first)[2][0]
    strongest = np.argsort(-np.abs(scores), kind="stable")
    different = list(dict.fromkeys(zip(ids[strongest], strongest % 30, strict=True)))[:10]
    assert [(ids[token], token % 30) for token in one["token"].values] == different
    n_different = len(set(zip(ids.tolist(), (np.arange(600) % 30).tolist(), strict=True)))
    n_planted = len({place % 30 for place in places.tolist()})
    assert (int(one["driver"]), int(one["driver_count"])) == (7, 10)
    assert float(one["driver_share"]) == pytest.approx(n_planted / n_different)
    assert float(one["driver_p"]) <= 0.05
    assert ids[other["token"].values].tolist().count(3) == 1
    assert float(other["driver_p"]) > 0.05
    told = dict(paragraph(run, explain(run)))["Which directions"]
    js_largest = chosen_component(explain(run))
    assert told.startswith(f"In {js_largest} the first of 16 holds ")
    driven = explain(run)._replace(qualified=_first_only(explain(run).qualified, "a.down_proj"))
    assert " and 10 of its 10 strongest tokens are “ t7”, which is " in dict(paragraph(run, driven))["Which directions"]


def _first_only(qualified: Any, name: str) -> Any:
    return qualified.assign(js=qualified["js"].where(qualified["component"] == name, 0.0))


ACTS, MATTERS, WHICH, WORDS, RANKS = (
    "Where it acts",
    "What matters",
    "Which directions",
    "Which words",
    "How many ranks",
)
NO_ABLATION = "Can't tell, since the run holds no ablation; capture it with `--ablate components`."
NO_WORDS = "the run holds no unembedding; capture it with `--unembedding`."
NO_STATES = "Can't tell, since the run keeps no states; capture it with `--states all`."
PAIR = "Can't tell, since stream 'pair' keeps the whole change; capture stream 'adapted'."
NO_FACTOR = "Can't tell, since no component's delta is kept as a factor (as with DoRA), and only that has ranks."
NONE_THERE = "Can't tell, since none of the tokens with states is committed; capture more of the run."
KINDS_OF_RUNS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "plain": ({}, {ACTS: "; MIUB is 0.484 ± 0.025 nat over 12 samples. In all, ", MATTERS: NO_ABLATION}),
    "components": (
        {"ablate": "components"},
        {
            MATTERS: "Taken out alone, model.layers.0.down_proj changes the next token most, by a KL of 4.1 ± 1.5 nat "
            "(37 tokens of 6 samples), though 3 of the 5 others can't be told from it. The 5 largest of 6 components "
            "hold 92.2 % of the sum (equal ones would hold 83.3 %). JS predicts what ",
            WHICH: "In model.layers.0.down_proj the first of 2 ",
        },
    ),
    "layers": (
        {"ablate": "layers"},
        {MATTERS: "Taken out alone, layer 0 changes the next token most, by a KL of 1.94 ± 0.24 nat (37 tokens of 6 "},
    ),
    "kinds": (
        {"ablate": "kinds"},
        {MATTERS: "Taken out alone, the kind down_proj changes the next token most, by a KL of "},
    ),
    "pair": ({"stream": "pair"}, {WHICH: PAIR, RANKS: PAIR, WORDS: NO_WORDS}),
    "no states": (
        {"states": "none"},
        {ACTS: "isn't known, because the null needs the states", WHICH: NO_STATES, WORDS: NO_STATES, RANKS: NO_STATES},
    ),
    "some states": (
        {"states": "sample", "state_rows": (False, True), "n_tokens": 120},
        {RANKS: "on 416 tokens (its error can't be told from one row of tokens)", WORDS: NO_WORDS},
    ),
    "none of some states": (
        {"states": "sample", "state_rows": (False, False), "n_tokens": 120},
        {WHICH: NONE_THERE, WORDS: NONE_THERE, RANKS: NONE_THERE},
    ),
    "DoRA": ({"factored": False}, {WHICH: NO_FACTOR, RANKS: NO_FACTOR}),
    "nothing changed": (
        {"zero": True},
        {
            ACTS: "It moves no layer at all (MIUB, the size of its push on the layers' outputs, is 0) in any of 12 ",
            WHICH: "Can't tell: delta of model.layers.0.q_proj is 0, or not finite.",
            RANKS: "Can't tell: delta is 0 on all of 73 tokens, or not finite.",
        },
    ),
    "nothing changed, ablated": (
        {"zero": True, "ablate": "components"},
        {MATTERS: "Can't tell whether JS sees what matters: it has no ranks."},
    ),
    "not finite": (
        {"not_finite": True},
        {ACTS: "Can't tell, since some values of base or delta aren't finite (1)."},
    ),
    "outside": ({"outside": True}, {ACTS: "It acts most in layers 0 and 1 (83.2 % of MIUB"}),
    "one sample": (
        {"n_samples": 1, "ablate": "components"},
        {
            ACTS: "MIUB is 0.436 nat over one sample, from which no error can be told. In all",
            MATTERS: "Can't tell: no part's removal is known to move the next token by twice its error (7 tokens of "
            "one sample, from which no error can be told).",
            WHICH: "its 7 strongest tokens are as mixed as",
        },
    ),
}


@pytest.mark.parametrize("name", KINDS_OF_RUNS)
def test_each_kind_of_run_has_its_answers(make_small: Callable[..., Small], tmp_path: Path, name: str) -> None:
    options, said = KINDS_OF_RUNS[name]
    told = write_explanation(make_small(**options).run, tmp_path / "page.html")
    answers = dict(line.split(". ", 1) for line in told.split("\n"))
    assert list(answers) == [ACTS, MATTERS, WHICH, WORDS, RANKS]
    assert {question: words for question, words in said.items() if words not in answers[question]} == {}
    page = Page(tmp_path / "page.html")
    sections = [str(attrs["id"]) for tag, attrs in page.tags if tag == "section"]
    has_measures = options.get("ablate") == "components"
    assert sections == [
        "components",
        *(["parts"] if options.get("ablate") else ["ablation"]),
        *(["ablation"] if has_measures else []),
        "directions",
        "lens",
    ]


def test_a_run_that_is_not_finished_and_one_of_several_adapters(tmp_path: Path, two_adapters: Path) -> None:
    run = write_many(tmp_path / "run.zarr", rows=(0, 2))
    found = explain(run)
    assert found.directions is not None
    there = np.r_[:ROW_TOKENS, 2 * ROW_TOKENS : 2500]
    later = open_run(run).tokens["position"].values[there] > 0
    assert 0 < later.sum() < len(there)
    assert found.directions.attrs["n_tokens"] == later.sum()
    assert f"on {later.sum()} tokens, position 0 left out (" in write_explanation(run, tmp_path / "page.html")
    assert found.directions["component"].size == 3  # of the fourth, delta itself is stored
    assert "tokens, position 0 left out; medians" in (tmp_path / "page.html").read_text().replace("\n", " ")
    with pytest.raises(StoreError, match="no sample of .* is wholly committed yet; capture more of it"):
        explain(write_many(tmp_path / "empty.zarr", rows=()))
    run = open_run(two_adapters)
    with pytest.raises(StoreError, match="`adapter` isn't given, and this run holds several"):
        explain(run)
    for name in run.adapters:
        found = explain(run, adapter=name)
        assert found.qualified.attrs["adapter"] == name
        assert found.why["ablation"].startswith("stream 'base' has no pass with the adapter; ")


def test_no_sample_that_was_ablated_takes_no_page_down(
    make_small: Callable[..., Small], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_small(ablate="components").run
    ablation = run.ablation().compute()
    monkeypatch.setattr(Run, "ablation", lambda run, adapter=None: (np.nan * ablation).assign_attrs(ablation.attrs))
    told = write_explanation(run, tmp_path / "page.html")
    assert "What matters. Can't tell, since no sample was ablated as a whole yet; capture more of the run." in told
    assert "No sample was ablated as a whole yet." in section(page_of(run, tmp_path), "ablation")


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose down_proj adds what the unembedding of token 5 is like, and that token's text is hostile."""
    folder = tmp_path_factory.mktemp("planted")
    width = 300
    unembedding = make_unembedding(width, 400)
    unembedding["text"][5] = EVIL + "\n\x1b[31m"  # a line break and an escape of a terminal
    row = unembedding["weight"].values[5] * unembedding["norm"].values
    rng = np.random.default_rng(6)
    deltas = {
        "model.layers.0.self_attn.o_proj": rng.normal(size=(60, width)),
        "model.layers.0.mlp.down_proj": rng.normal(size=(60, width)) + 60 * row / np.linalg.norm(row),
    }
    states = {name: (rng.normal(size=delta.shape), delta) for name, delta in deltas.items()}
    return store_states(folder / "run.zarr", states, lengths=[30, 30], datasets=[EVIL, EVIL], unembedding=unembedding)


def test_words_are_those_of_the_longest_mean_delta_and_hold_no_markup(planted: Run, tmp_path: Path) -> None:
    told = write_explanation(planted, tmp_path / "page.html")
    (words,) = [line for line in told.split("\n") if line.startswith("Which words. ")]
    spelt = EVIL + r"\n\x1b[31m"
    assert f"The mean delta of model.layers.0.mlp.down_proj promotes “{spelt}”, " in words
    assert told.count("\n") == 4
    page = Page(tmp_path / "page.html")
    assert "\x1b" not in page.source
    assert not {tag for tag, _ in page.tags} & {"img", "link", "iframe", "object", "embed", "base"}
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    addresses = [str(value) for _, attrs in page.tags for name, value in attrs.items() if name in FETCHING]
    assert [address for address in addresses if not address.startswith("#")] == []
    assert spelt in page.text
    assert "alert" not in "".join(page.scripts[-1:])
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in section(page, "lens").split("<tr>")]
    rows = {row[0].replace("<wbr>", ""): row[1:] for row in cells if row}
    assert list(rows) == ["model.layers.0.mlp.down_proj", "model.layers.0.self_attn.o_proj"]
    assert rows["model.layers.0.self_attn.o_proj"][4:] == ["0", "0"]
    (n, _) = re.findall(r"; (\d+) beyond the null\)", words)
    assert rows["model.layers.0.mlp.down_proj"][4] == n != "0"


def test_words_within_the_null_are_told_as_such(planted: Run) -> None:
    found = explain(planted)
    assert found.lens is not None
    only = found._replace(lens=found.lens.sel(site=["model.layers.0.self_attn.o_proj"]))
    words = dict(paragraph(planted, only))["Which words"]
    assert words.startswith(
        "Can't tell: with random signs of its features it would move some tokens as far. For what it"
    )
    assert words.count("; 0 beyond the null)") == 2


def test_the_stream_itself_is_the_site_where_it_is_there() -> None:
    sites = ["a.down_proj", "b.down_proj", "after layer 0", "after layer 1"]
    lens = xr.Dataset({"delta_norm": ("site", [np.nan, 9.0, 1.0, 2.0])}, {"site": sites})
    found = Explanation(xr.DataTree(), None, None, None, lens, {})
    assert chosen_site(found) == "after layer 1"
    assert chosen_site(found._replace(lens=lens.isel(site=[0, 1]))) == "b.down_proj"


def test_tables_hold_the_numbers(make_small: Callable[..., Small], tmp_path: Path) -> None:
    run = make_small(ablate="components", token_text=False).run
    found = explain(run)
    write_explanation(run, tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert found.ablation is not None
    assert found.directions is not None
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in section(page, "parts").split("<tr>")]
    shares = {row[0].replace("<wbr>", ""): row[2] for row in rows if row}
    kl = found.ablation["kl"].to_series().sort_values(ascending=False)
    assert shares == {name: f"{100 * value / kl.sum():.1f} %" for name, value in kl.items()}
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in section(page, "directions").split("<tr>")]
    strongest = {
        row[0].replace("<wbr>", ""): row[1] for row in rows if len(row) == 6 and "proj" in row[0] and "." in row[0]
    }
    token_id = run.tokens["token_id"].values
    for name, told in strongest.items():
        first = found.directions["token"].sel(component=name).values[:3]
        assert re.findall(r"\[(\d+) \]", told) == [str(one) for one in token_id[first]]
    assert len(strongest) == 6


def test_a_folder_is_no_page(small: Small, tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="a folder; name a file, e.g."):
        write_explanation(small.run, tmp_path)
