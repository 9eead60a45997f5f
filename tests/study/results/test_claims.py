from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats  # type: ignore[import-untyped]

from lorascope.analyze import save
from lorascope.analyze.fits.verdicts import Verdict
from lorascope.study import read_units
from lorascope.study.results.cells import study_cells
from lorascope.study.results.claims import CLAIMS
from lorascope.study.results.paper_claims import paper_claims
from lorascope.study.results.study_results import compare_study_metrics
from lorascope.study.results.units import UnitResult

from ..made import HIGHER, make_study, make_unit, true_miub
from .test_cells import raw


@pytest.fixture(scope="module")
def findings(units: list[UnitResult]) -> pd.DataFrame:
    return claims_of(units)


SMALL = {"text": False, "lengths": False, "prompts": ("main",), "informed": False}
"""Options of a unit of test items alone."""


def claims_of(units: list[UnitResult], compared: Iterable[Verdict] = ()) -> pd.DataFrame:
    return paper_claims(units, study_cells(units), compared)


def of(findings: pd.DataFrame, claim: str) -> Any:
    (finding,) = findings[findings["claim"] == claim].itertuples()
    return finding


def averages(study: Path, share: int, rank: int, where: str = "prompt == 'main' and in_test == 1") -> pd.DataFrame:
    own = raw(study, f"share{share}-r{rank}-s0-qa").query(f"answer >= 0 and {where}")
    return own.set_index(["dataset", "id"]).sort_index()


def paired(study: Path, first: tuple[int, int], last: tuple[int, int], column: str) -> tuple[float, float]:
    """Mean over data sets of the mean difference of items, and its standard error."""
    differences = (averages(study, *last)[column] - averages(study, *first)[column]).groupby(level="dataset")
    return differences.mean().mean(), float(np.sqrt((differences.sem() ** 2).sum()) / 3)


def test_every_claim_has_its_number_interval_and_n(findings: pd.DataFrame) -> None:
    assert findings["number"].is_monotonic_increasing
    assert set(findings["number"]) == set(CLAIMS)
    assert findings.columns[-5:].tolist() == ["high", "unit", "n_items", "n_seeds", "seed_sd"]
    for finding in findings.itertuples():
        assert finding.because
        if np.isfinite(finding.value):
            assert finding.low <= finding.value <= finding.high
            assert finding.unit or "ln" in finding.claim
            assert f"over {finding.n_items} items, one seed a setting" in finding.because


def test_miub_falls_along_rank_and_size(study: Path, findings: pd.DataFrame) -> None:
    for claim, first, last in (
        ("MIUB falls as rank grows", (1, 8), (1, 128)),
        ("MIUB falls as model size grows", (8, 8), (1, 8)),
    ):
        finding = of(findings, claim)
        start = averages(study, *first)["miub"].groupby(level="dataset").mean().mean()
        difference, _ = paired(study, first, last, "miub")
        assert finding.value == pytest.approx(100 * difference / start, rel=1e-9)
        # A ratio's error by the delta method, and Student's t with 69 degrees of freedom; the end of an interval from
        # 1000 draws has a tenth of an error as its own.
        ratio = 1 + difference / start
        parts = averages(study, *last)["miub"] - ratio * averages(study, *first)["miub"]
        error = np.sqrt((parts.groupby(level="dataset").sem() ** 2).sum()) / 3 / start
        assert (finding.high - finding.low) / 2 == pytest.approx(199.5 * error, rel=0.12)
        assert finding.verdict == "supported"
        truth = 100 * (true_miub(*last) / true_miub(*first) - 1)
        assert finding.value == pytest.approx(truth, abs=1.5)
    finding = of(findings, "ln MIUB changes less over the ranks than over the model sizes")
    means = [
        averages(study, *at)["miub"].groupby(level="dataset").mean().mean() for at in ((1, 8), (1, 128), (8, 8), (1, 8))
    ]
    logs = np.abs(np.log([means[1] / means[0], means[3] / means[2]]))
    assert finding.value == pytest.approx(logs[0] - logs[1], rel=1e-9)
    assert finding.verdict == "supported"


def test_a_rise_counts_like_a_fall(tmp_path: Path) -> None:
    """A rise by 100 % is less of a change than a fall by 67 %: to the double, and to a third."""
    for share, rank, times in ((8, 8, 3.0), (1, 8, 1.0), (1, 128, 2.0)):
        by = times / true_miub(share, rank)
        change = lambda results, by=by: results.assign(miub=results["miub"] * by)  # noqa: E731
        make_unit(tmp_path, share, rank, change=change, **SMALL)  # type: ignore[arg-type]
    finding = of(claims_of(read_units(tmp_path)), "ln MIUB changes less over the ranks than over the model sizes")
    assert finding.value == pytest.approx(np.log(2) - np.log(3), abs=0.02)
    assert finding.verdict == "supported"
    assert "|ln| of r128 over r8 less that of share1 over share8:" in finding.because


def moved(folder: Path, factors: dict[tuple[int, int], list[float]]) -> pd.DataFrame:
    """Claims of settings whose seeds have MIUB times a factor; the law itself is taken out."""
    for (share, rank), own in factors.items():
        for seed, times in enumerate(own):
            by = times / true_miub(share, rank)
            change = lambda results, by=by: results.assign(miub=results["miub"] * by)  # noqa: E731
            make_unit(
                folder, share, rank, seed=seed, noise=0, change=change, **(SMALL | {"prompts": ("main", "prompt1")})
            )  # type: ignore[arg-type]
    return claims_of(read_units(folder))


def test_claims_are_judged_by_items_and_trainings(tmp_path: Path) -> None:
    """Items agree that MIUB falls by 5 %; seeds of a setting differ by more, or by less."""
    claims = ("MIUB falls as rank grows", "under prompt1 MIUB falls with rank")
    for spread, word in ((0.0, "supported"), (0.2, "not identified")):
        factors = {(1, rank): [level * (1 + spread * k) for k in (-1, 0, 1)] for rank, level in ((8, 1.0), (32, 0.95))}
        findings = moved(tmp_path / str(spread), factors)
        for finding in (of(findings, claim) for claim in claims):
            assert (finding.verdict, finding.n_seeds) == (word, 3)
            assert finding.value == pytest.approx(-5, abs=1)
            # Seeds differ by 0.01 nat of some 1.2 in addition, see `make_unit`.
            assert finding.seed_sd == pytest.approx(95 * (spread + 0.008) * np.sqrt(2), rel=0.2)
            assert finding.because.endswith(" items and trainings")


def test_settings_with_one_seed_vary_as_those_with_several(tmp_path: Path) -> None:
    """Sizes have one seed, except share1; they borrow the spread of the ranks."""
    findings = moved(tmp_path, {(1, 8): [0.8, 1.2], (1, 32): [0.8, 1.2], (1, 128): [2.0], (4, 8): [1.3]})
    finding = of(findings, "MIUB falls as model size grows")
    assert (finding.verdict, finding.n_seeds) == ("not identified", 1)
    # 28 % of share1 in share1, with one degree of freedom; 28 % of share4 in share4, with two: r8 and r32.
    assert finding.seed_sd == pytest.approx(100 / 1.3 * 0.283 * np.sqrt(2), rel=0.1)


def test_steps_of_size(study: Path, findings: pd.DataFrame) -> None:
    finding = of(findings, "MIUB falls at every step of model size")
    steps = [paired(study, (a, 8), (b, 8), "miub")[0] for a, b in ((8, 4), (4, 2), (2, 1))]
    assert finding.value == pytest.approx(max(steps), rel=1e-9)
    assert finding.verdict == "supported"
    steeper = of(findings, "MIUB falls less at the last step of model size than at the first")
    assert steeper.value == pytest.approx(steps[2] - steps[0], rel=1e-9)
    assert steeper.verdict == "contradicted"  # the law that these results follow bends the other way
    milder = of(findings, "over the model sizes, ln MIUB changes less than ln CE")
    ends = [averages(study, share, 8)[["miub", "ce"]].groupby(level="dataset").mean().mean() for share in (8, 1)]
    logs = np.abs(np.log(ends[1] / ends[0])).tolist()
    assert milder.value == pytest.approx(logs[0] - logs[1], rel=1e-9)
    assert "|ln| of share1 over share8, MIUB's less CE's:" in milder.because


def test_accuracy_is_in_points(study: Path, findings: pd.DataFrame) -> None:
    finding = of(findings, "ACC rises with rank")
    difference, error = paired(study, (1, 8), (1, 128), "correct")
    assert finding.value == pytest.approx(100 * difference)
    assert finding.unit == "points"
    assert (finding.high - finding.low) / 2 == pytest.approx(196 * error, rel=0.3)
    assert of(findings, "CE rises with rank").value == pytest.approx(0.4)
    tuned = of(findings, "ACC rises with fine-tuning, mean over all settings")
    gains = [
        (own["correct"] - own["base_correct"]).groupby(level="dataset").mean().mean()
        for own in (averages(study, *key) for key in ((1, 8), (1, 32), (1, 128), (8, 8), (4, 8), (2, 8)))
    ]
    assert tuned.value == pytest.approx(100 * np.mean(gains))
    assert "6 settings" in tuned.because  # share1 is r8, shown again


def test_metrics_count_for_claim_3(units: list[UnitResult]) -> None:
    comparison = compare_study_metrics(study_cells(units))
    assert not isinstance(comparison, str)
    without, with_them = (claims_of(units[:1], some).query("number == 3") for some in ((), comparison.verdicts))
    own = with_them[["claim", "verdict", "because"]].to_records(index=False).tolist()
    assert own[: len(without)] == without[["claim", "verdict", "because"]].to_records(index=False).tolist()
    assert own[len(without) :] == [tuple(verdict) for verdict in comparison.verdicts]


def test_texts(study: Path, findings: pd.DataFrame) -> None:
    finding = of(findings, "MIUB of the text wiki falls as the model grows")
    means = [raw(study, f"share{share}-r8-s0-qa").query("answer < 0")["miub"].mean() for share in (8, 1)]
    assert finding.value == pytest.approx(100 * (means[1] / means[0] - 1), rel=1e-9)
    evenly = of(findings, "along model size, steps of ln PPL of the text wiki differ more than those of ln MIUB")
    texts = {share: raw(study, f"share{share}-r8-s0-qa").query("answer < 0") for share in (8, 4, 2, 1)}
    ce = [np.average(own["ce"], weights=own["length"] - 1) for own in texts.values()]
    miub = [np.log(own["miub"].mean()) for own in texts.values()]
    spread = [np.diff(values).std(ddof=1) / np.abs(np.diff(values)).mean() for values in (ce, miub)]
    assert evenly.value == pytest.approx(spread[0] - spread[1], rel=1e-9)


def test_lengths_are_of_other_items(study: Path, findings: pd.DataFrame) -> None:
    finding = of(findings, "MIUB falls with the items' length")
    value, parts = 0.0, []
    names = [f"share1-r{rank}-s0-qa" for rank in (8, 32, 128)] + [f"share{share}-r8-s0-qa" for share in (8, 4, 2)]
    frames = [raw(study, name).query("prompt == 'main' and bucket != ''") for name in names]
    items = pd.concat(frames).groupby(["bucket", "dataset", "id"])["miub"].mean()
    for sign, bucket in ((-1, "1-100"), (1, "101-200")):
        groups = items[bucket].groupby(level="dataset")
        value += sign * groups.mean().mean()
        parts += zip(groups.sem() ** 2 / 9, groups.size() - 1, strict=True)
    variance = sum(part for part, _ in parts)
    df = variance**2 / sum(part**2 / k for part, k in parts)  # Welch
    assert finding.value == pytest.approx(value, rel=1e-9)
    assert finding.high - finding.value == pytest.approx(stats.t.ppf(0.975, df) * np.sqrt(variance), rel=1e-6)
    assert finding.n_items == 35


def test_prompts_in_their_order(findings: pd.DataFrame) -> None:
    for higher, lower in (("prompt1", "main"), ("main", "prompt3"), ("prompt3", "prompt2")):
        finding = of(findings, f"MIUB is higher under {higher} than under {lower}")
        assert finding.value == pytest.approx(HIGHER[higher] - HIGHER[lower], abs=0.01)
        assert finding.verdict == "supported"
        assert finding.n_items == 36
    assert of(findings, "under prompt3 MIUB falls with model size").verdict == "supported"


def test_mutual_information_beside_js(findings: pd.DataFrame) -> None:
    above = of(findings, "js lies above MI")
    assert above.verdict == "contradicted"  # these estimates are ten times js, and can't lie above the truth
    assert above.because == "MI is above js in 21 of the 21 components, of 21, with a verdict of ok or lower bound only"
    near = of(findings, "MI and js nearly coincide, within 10 %")
    assert near.verdict == "contradicted"
    assert near.because == "median of MI over js: 10.0, n = 21 components, 18 with a verdict of ok"
    falls = of(findings, "MI falls as rank grows")
    assert falls.verdict == "supported"
    assert "falls in 6 of the 6 components, of 7, with a verdict of ok at both ends" in falls.because
    assert "sign test p = 0.0312" in falls.because  # 2/2^6


@pytest.mark.parametrize(
    ("factor", "verdict", "above", "near"),
    [
        (10.0, "ok", "contradicted", "contradicted"),
        (10.0, "biased", "not identified", "not identified"),
        (10.0, "saturated", "not identified", "not identified"),
        (1.02, "ok", "contradicted", "supported"),
        (0.98, "ok", "not identified", "supported"),
        (0.98, "lower bound only", "not identified", "not identified"),
        (0.1, "ok", "not identified", "not identified"),
    ],
)
def test_what_estimates_can_say_depends_on_their_verdicts(
    tmp_path: Path, factor: float, verdict: str, above: str, near: str
) -> None:
    make_study(tmp_path, [(1, 8), (1, 32)], text=False, lengths=False, prompts=("main",), informed=True)
    for rank in (8, 32):
        path = tmp_path / "results" / f"share1-r{rank}-s0-qa.information.nc"
        with xr.open_dataset(path, engine="netcdf4") as opened:
            estimates = opened.load()
        path.unlink()
        values = estimates["value"] * 0 + factor * estimates["js"]
        words = xr.full_like(estimates["verdict"], verdict)
        save(estimates.assign(value=values.assign_attrs(units="nat"), verdict=words), path)
    made = claims_of(read_units(tmp_path))
    assert of(made, "js lies above MI").verdict == above
    assert of(made, "MI and js nearly coincide, within 10 %").verdict == near
    falls = of(made, "MI falls as rank grows")
    if verdict != "ok":  # bounds aren't compared
        assert (falls.verdict, falls.n_items) == ("not identified", 0)
        assert falls.because == "none of the 7 components has a verdict of ok in both r8 and r32"
    if verdict in ("biased", "saturated"):
        assert (
            of(made, "js lies above MI").because == "none of the 14 components has a verdict of ok or lower bound only"
        )


def test_small_studies_say_what_they_lack(tmp_path: Path) -> None:
    make_study(tmp_path, [(1, 8)], **SMALL)
    made = claims_of(read_units(tmp_path))
    rest = made[made["number"] > 0]
    assert set(rest["verdict"]) == {"not identified"}
    assert of(made, "MIUB falls as rank grows").because == "the study has 1 setting of rank; a change takes two"
    assert of(made, "js lies above MI").because == "mutual information was estimated of no unit"
    assert of(made, "MIUB falls with the items' length").because.startswith("0 buckets")
    assert "there is one prompt" in set(rest["because"])


def test_models_and_tasks_are_told_apart(tmp_path: Path) -> None:
    make_unit(tmp_path, model="big", **SMALL)  # type: ignore[arg-type]
    make_unit(tmp_path, **SMALL)  # type: ignore[arg-type]
    made = claims_of(read_units(tmp_path))
    assert of(made, "ACC of big rises with fine-tuning, mean over all settings").n_items == 72
    assert of(made, "ACC of smol rises with fine-tuning, mean over all settings").n_items == 72
    apart = tmp_path / "apart"
    for task in ("a", "b"):
        make_unit(apart, task=task, **SMALL)  # type: ignore[arg-type]
    assert of(claims_of(read_units(apart)), "ACC of b rises with fine-tuning, mean over all settings")


def test_every_step_must_fall_surely(tmp_path: Path) -> None:
    """A step that falls more, but less surely, decides: the one that falls least says nothing of it."""

    def noisy(results: xr.Dataset) -> xr.Dataset:
        loud = np.where(np.arange(results.sizes["sample"]) % 2, 20.0, -20.0) - 1.0
        return results.assign(miub=("sample", results["miub"].values + loud, {"units": "nat"}))

    for share in (8, 4):
        make_unit(tmp_path, share, **SMALL)  # type: ignore[arg-type]
    make_unit(tmp_path, 1, change=noisy, **SMALL)  # type: ignore[arg-type]
    made = of(claims_of(read_units(tmp_path)), "MIUB falls at every step of model size")
    assert made.verdict == "not identified"
    assert "share4 to share1" in made.because
