from typing import Any

import numpy as np
import pytest
import xarray as xr

from lorascope.analyze.miub import groups
from lorascope.analyze.miub.groups import group_by, to_dataframe
from lorascope.analyze.miub.miub import miub
from lorascope.analyze.results.options import KEYS


@pytest.fixture(scope="module")
def result(make_small: Any) -> xr.DataTree:
    """Twelve samples of two data sets and two lengths, weights that differ, one of them not usable."""
    found = miub(make_small(is_weighted=True, word=(" a", "b", "")).run)
    dataset = np.array(["b", "a"] * 6, object)
    length = np.array([5, 101, 100, 250, 5, 5] * 2)
    used = found["samples/used"].values.copy()
    used[4] = False
    samples = found["samples"].to_dataset()
    samples = samples.assign_coords(dataset=("sample", dataset), length=("sample", length), used=("sample", used))
    found["samples"] = xr.DataTree(samples)
    return found


def expected_cell(result: xr.DataTree, samples: np.ndarray, components: np.ndarray, tokens: np.ndarray) -> list[float]:
    """Mean, error and count from the definition, sample by sample."""
    values = []
    for sample in np.flatnonzero(samples & result["samples/used"].values):
        kept = tokens & (result["tokens/sample_of_token"].values == sample)
        if kept.any():
            js = result["tokens/js"].values[kept].astype(np.float64)[:, components].sum(axis=1)
            values.append(np.average(js, weights=result["tokens/weight"].values[kept]))
    n = len(values)
    error = np.std(values, ddof=1) / np.sqrt(n) if n > 1 else np.nan
    return [np.mean(values) if n else np.nan, error, n]


def everywhere(result: xr.DataTree) -> dict[str, np.ndarray]:
    sizes = {**result["samples"].sizes, **result["tokens"].sizes}
    return {dim: np.ones(sizes[dim], bool) for dim in ("sample", "component", "token")}


@pytest.mark.parametrize(
    "by",
    [
        *[(key,) for key in KEYS],
        ("dataset", "kind"),
        ("kind", "dataset"),
        ("role", "dataset"),
        ("layer", "position"),
        ("position", "role", "kind"),
        ("text", "layer"),
    ],
)
def test_every_group_is_its_definition(result: xr.DataTree, by: tuple[str, ...]) -> None:
    grouped = group_by(result, by)
    assert grouped["miub"].dims == by
    dims = {"dataset": "sample", "split": "sample", "prompt": "sample", "length": "sample"}
    dims |= {"role": "token", "position": "token", "text": "token"}
    nodes = {"sample": "samples", "token": "tokens"}
    labels = {key: result[f"/{nodes.get(dims.get(key, ''), '')}/{key}".replace("//", "/")].values for key in by}
    if "length" in labels:
        labels["length"] = np.array(
            [f"{100 * ((n - 1) // 100) + 1}-{100 * ((n - 1) // 100) + 100}" for n in labels["length"]]
        )
    for place in np.ndindex(grouped["miub"].shape):
        cell = grouped[dict(zip(by, place, strict=True))]
        masks = everywhere(result)
        for key in by:
            masks[dims.get(key, "component")] &= labels[key].astype(str) == str(cell[key].item())
        mean, error, n = expected_cell(result, masks["sample"], masks["component"], masks["token"])
        assert cell["n_samples"].item() == n
        assert cell["n_components"].item() == masks["component"].sum()
        if "n_tokens" in cell:
            in_use = (masks["sample"] & result["samples/used"].values)[result["tokens/sample_of_token"].values]
            assert cell["n_tokens"].item() == (masks["token"] & in_use).sum()
        assert ("n_tokens" in cell) == ("token" in [dims.get(key) for key in by])
        np.testing.assert_allclose([cell["miub"].item(), cell["miub_se"].item()], [mean, error], rtol=1e-9)


def test_groups_of_components_add_up(result: xr.DataTree) -> None:
    total = group_by(result, ["dataset"])["miub"]
    np.testing.assert_allclose(group_by(result, ["dataset", "layer", "kind"])["miub"].sum(["layer", "kind"]), total)


@pytest.mark.parametrize("by", [("position",), ("role", "kind")])
def test_ranges_of_tokens_change_nothing(
    result: xr.DataTree, monkeypatch: pytest.MonkeyPatch, by: tuple[str, ...]
) -> None:
    whole = group_by(result, by)
    monkeypatch.setattr(groups, "CHUNK_TOKENS", 7)
    xr.testing.assert_allclose(group_by(result, by), whole, rtol=1e-12)


def test_what_isnt_finite_stays_seen(make_small: Any) -> None:
    result = miub(make_small(not_finite=True).run)
    grouped = group_by(result, ["kind", "layer"])
    assert np.isnan(grouped["miub"].values).sum() == 1
    assert np.isnan(group_by(result, ["position"])["miub"].values).sum() == 1
    assert np.isnan(group_by(result, ["role"])["miub"].values).any()


@pytest.mark.parametrize(
    ("by", "close"),
    [([], ""), (["colour"], ""), (["kind", "kind"], ""), (["kind", "layers"], r"; did you mean 'layer'\?")],
)
def test_unknown_keys_are_refused(result: xr.DataTree, by: list[str], close: str) -> None:
    with pytest.raises(ValueError, match=rf"`by` is .*; name one or several of .*, each once{close}$"):
        group_by(result, by)


def test_texts_are_grouped_where_the_run_keeps_them(make_small: Any) -> None:
    with pytest.raises(ValueError, match="tokens can't be grouped by 'text', which the run doesn't store"):
        group_by(miub(make_small(token_text=False).run), "text")


def test_a_table_has_so_many_groups_at_most(result: xr.DataTree, monkeypatch: pytest.MonkeyPatch) -> None:
    n = group_by(result, ["position", "layer"])["miub"].size
    monkeypatch.setattr(groups, "MOST_GROUPS", n)
    assert group_by(result, ["position", "layer"])["miub"].size == n
    monkeypatch.setattr(groups, "MOST_GROUPS", n - 1)
    with pytest.raises(ValueError, match=f"makes {n} groups; name fewer keys: at most {n - 1}"):
        group_by(result, ["position", "layer"])


def test_sums_of_tokens_arent_grouped_by_token(make_small: Any) -> None:
    with pytest.raises(ValueError, match="take the one of reduction 'mean'"):
        group_by(miub(make_small().run, reduction="sum"), ["position"])


@pytest.mark.parametrize("per", ["component", "sample", "sample component", "token", "token component"])
def test_tables_are_tidy(result: xr.DataTree, per: str) -> None:
    frame = to_dataframe(result, per)
    assert len(frame) == np.prod([len(everywhere(result)[dim]) for dim in per.split()])
    assert {"component": {"js", "js_se", "kind", "layer"}, "sample": {"miub", "dataset"}}.get(per, set()) <= set(frame)
    assert not frame.columns.duplicated().any()


def test_tables_hold_the_numbers(result: xr.DataTree) -> None:
    frame = to_dataframe(result)
    kept = result["samples/js"].values
    np.testing.assert_allclose(frame["js"], kept.mean(axis=0))
    np.testing.assert_allclose(frame["js_se"], kept.std(axis=0, ddof=1) / np.sqrt(len(kept)))
    grouped = group_by(result, ["dataset", "kind"])
    assert len(to_dataframe(grouped, "group")) == grouped["miub"].size
    assert to_dataframe(grouped).equals(to_dataframe(grouped, "group"))
    with pytest.raises(ValueError, match="`per` is 'layer'; this result holds numbers per"):
        to_dataframe(result, "layer")


@pytest.mark.parametrize("samples", [slice(6), slice(None, None, -1)])
def test_tokens_arent_grouped_by_samples_that_moved(result: xr.DataTree, samples: slice) -> None:
    moved = result.isel(sample=samples)
    assert group_by(moved, "dataset").sizes["dataset"] == 2
    with pytest.raises(ValueError, match="selected or sorted"):
        group_by(moved, ["dataset", "role"])
