"""What the report opens with: the answers of each kind of run, and the words of a planted one."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorascope.analyze import explain
from lorascope.analyze.report import paragraph
from lorascope.analyze.report.learned import main_component
from lorascope.analyze.report.matters import answer_what_matters
from lorascope.analyze.results.format import format_error
from lorascope.stores import Run, StoreError, open_run
from lorascope.stores.format.spec import ROW_TOKENS

from ...conftest import write_run as write_many
from ..conftest import PASSES, Small
from ..directions.test_drivers import write_factors

SAYS, NEXT, PARTS, LARGE, HELPS = QUESTIONS = (
    "What does it say?",
    "Which next tokens?",
    "Which parts?",
    "How far do outputs move?",
    "Does it help?",
)
NO_CHANGES = (
    "Can't tell what changed, since the run holds no next-token changes; capture it again with `--changes all`."
)
NO_PARTS = "Can't tell which part matters, since the run holds no importance; capture it again with `--importance 4`."
UNKNOWN = "Can't tell which directions, since "
NO_STATES = f"{UNKNOWN}the run stores no states, the outputs of modules; capture it with `--states all`."
PAIR = f"{UNKNOWN}stream 'pair' stores changes as a whole, not in low-rank form; capture stream 'adapted'."
NO_FACTOR = f"{UNKNOWN}no module's change is stored in low-rank form (as with DoRA), which directions and ranks need."
NONE_COMMITTED = f"{UNKNOWN}no token with states is committed yet; capture more of the run."
CHOSEN = "it is only known of all components, and some were chosen"
KINDS_OF_RUNS: dict[str, tuple[dict[str, Any], dict[str, tuple[str, ...]]]] = {
    "plain": (
        {},
        {
            HELPS: ("Accuracy ",),
            LARGE: ("; MIUB, their summed Jensen-Shannon divergence: 0.484 ± 0.025 nat; 12 samples). The adapter's e",),
            NEXT: (NO_CHANGES,),
            PARTS: (NO_PARTS, "_proj, the module of largest JS, strongest at “", "Modules use "),
        },
    ),
    "not scored": ({"is_scored": False}, {HELPS: ("Can't tell, since no sample was scored.",)}),
    "components": (
        {"ablate": "components"},
        {
            PARTS: (
                "With parts taken out one at a time, predictions change most without model.layers.0.down_proj (KL "
                "4.1 ± 1.5 nat over 37 tokens of 6 samples; not significantly more than without 3 other components). "
                "One of 2 directions has ",
                " % of what the adapter adds to model.layers.0.down_proj, the module of largest KL when removed, ",
            )
        },
    ),
    "importance": (
        {"importance": True},
        {
            PARTS: ("Predictions depend most on layer", " of what the adapter adds there, "),
            LARGE: ("nat; 12 samples).",),
        },
    ),
    "layers": ({"ablate": "layers"}, {PARTS: ("change most without layer 0 (KL ", "the module of largest JS")}),
    "kinds": ({"ablate": "kinds"}, {PARTS: ("change most without modules named down_proj (KL ",)}),
    "pair": ({"stream": "pair"}, {PARTS: (PAIR,)}),
    "no states": (
        {"states": "none"},
        {
            LARGE: ("Can't tell whether the outputs of modules move much (a comparison needs the stored outputs",),
            PARTS: (NO_STATES,),
        },
    ),
    "some states": (
        {"states": "sample", "state_rows": (False, True), "n_tokens": 120},
        {PARTS: (" directions on average (99 % of squared length; too few tokens for an error).",)},
    ),
    "none of some states": (
        {"states": "sample", "state_rows": (False, False), "n_tokens": 120},
        {PARTS: (NONE_COMMITTED,)},
    ),
    "DoRA": ({"factored": False}, {PARTS: (NO_FACTOR,)}),
    "nothing changed": (
        {"zero": True},
        {
            LARGE: ("Nowhere: the adapter changes no module's output in any of 12 samples.",),
            PARTS: (
                "Can't tell which directions model.layers.0.q_proj has, since what the adapter adds to it is 0, or not",
                "Can't tell how many it uses, since what the adapter adds is 0 or not finite everywhere.",
            ),
        },
    ),
    "nothing changed, ablated": (
        {"zero": True, "ablate": "components"},
        {PARTS: ("Can't tell which directions model.",)},
    ),
    "not finite": (
        {"not_finite": True},
        {LARGE: ("contain NaN or infinity (number of undefined effects: 1).",), PARTS: ("One of 2 directions has ",)},
    ),
    "outside": ({"outside": True}, {LARGE: ("The adapter's effect is largest in layers 0 and 1 (83.2 % of all; ",)}),
    "one sample": (
        {"n_samples": 1, "ablate": "components"},
        {
            LARGE: ("0.436 nat; one sample, which gives no error).",),
            PARTS: (
                "Can't tell which part matters by taking parts out: whichever is removed, predictions of the next "
                "token change by less than twice the standard error (7 tokens of one sample, which gives no error).",
            ),
        },
    ),
}


def answers_of(run: Any, **options: Any) -> dict[str, str]:
    return dict(paragraph(open_run(run) if isinstance(run, Path) else run, explain(run, **options)))


@pytest.mark.parametrize("name", KINDS_OF_RUNS)
def test_each_kind_of_run_has_its_answers(make_small: Callable[..., Small], name: str) -> None:
    options, expected = KINDS_OF_RUNS[name]
    answers = answers_of(make_small(**options).run)
    assert tuple(answers) == QUESTIONS
    assert [words for question in expected for words in expected[question] if words not in answers[question]] == []


def test_the_most_important_parts(make_small: Callable[..., Small]) -> None:
    run = make_small(importance=True).run
    stored, modules = run.importance(), run.components
    of = stored["component"].values

    def share(labels: np.ndarray, name: object) -> str:
        """Share of a layer, kind or module with its error: that of a ratio of sums over samples, linearised."""
        by_pass = np.array([stored["gradient"].values[:, labels[of] == n].sum(axis=1) ** 2 for n in np.unique(labels)])
        by_pass = by_pass / stored["n_tokens"].values
        by_sample = np.stack([by_pass[:, s == PASSES].mean(axis=1) for s in np.unique(PASSES)])
        part, whole = by_sample[:, np.unique(labels) == name][:, 0], by_sample.sum(axis=1)
        residual = (part - part.sum() / whole.sum() * whole) / whole.sum()
        return format_error(100 * part.sum() / whole.sum(), 100 * np.sqrt(5 / 4 * (residual**2).sum()))

    explanation = explain(run)
    assert explanation.importance is not None
    shares = {name: part["share"].to_series() for name, part in explanation.importance.items()}
    layer, kind, component = (shares[node].idxmax() for node in ("layers", "kinds", "components"))
    assert min(shares["layers"][layer], shares["kinds"][kind]) > 0.5  # else several would be named
    assert answer_what_matters(run, explanation) == (
        f"Predictions depend most on layer {layer} ({share(modules['layer'].values, layer)} % of importance; 50.0 % if "
        f"all were equal), modules named {kind} ({share(modules['kind'].values, kind)} %; 33.3 %) and {component} "
        f"({share(modules['path'].values, component)} % of that of modules; gradients of 5 samples)."
    )
    tree = explanation.importance.copy()
    tree["components"] = tree["components"].to_dataset().assign(se=("component", np.full(6, np.inf)))
    assert answer_what_matters(run, explanation._replace(importance=tree)) == (
        "Can't tell which part matters: no module's importance is above twice its error (5 samples)."
    )
    for importance, where in ((explanation.importance, "there"), (tree, f"to {component}, the module of largest imp")):
        answer = dict(paragraph(run, explanation._replace(importance=importance)))[PARTS]
        assert f" % of what the adapter adds {where}" in answer


def test_some_components_alone(small: Small, make_small: Callable[..., Small]) -> None:
    for run in (small.run, make_small(ablate="components").run):
        explanation = explain(run, component=["*.up_proj"])
        assert explanation.directions is not None
        assert explanation.directions["component"].values.tolist() == [f"model.layers.{n}.up_proj" for n in (0, 1)]
        answers = dict(paragraph(run, explanation))
        assert explanation.reasons["ablation"] == explanation.reasons["importance"] == CHOSEN
        assert answers[PARTS].startswith(f"Can't tell which part matters, since {CHOSEN}.")


def test_a_run_that_is_not_finished_and_one_of_several_adapters(tmp_path: Path, two_adapters: Path) -> None:
    path = write_many(tmp_path / "run.zarr", rows=(0, 2))
    explanation = explain(path)
    assert explanation.directions is not None
    committed = np.r_[:ROW_TOKENS, 2 * ROW_TOKENS : 2500]
    n_later = int((open_run(path).tokens["position"].values[committed] > 0).sum())
    assert 0 < n_later < len(committed)
    assert explanation.directions.attrs["n_tokens"] == n_later
    assert explanation.directions["component"].size == 3  # of the fourth, delta itself is stored
    with pytest.raises(StoreError, match="no sample of .* is wholly committed yet; capture more of it"):
        explain(write_many(tmp_path / "empty.zarr", rows=()))
    run = open_run(two_adapters)
    with pytest.raises(StoreError, match="`adapter` isn't given, and this run holds several"):
        explain(run)
    for name in run.adapters:
        explanation = explain(run, adapter=name)
        assert explanation.qualified.attrs["adapter"] == name
        assert explanation.reasons["ablation"] == (
            "the run holds no ablation; capture it again with `--ablate components`"
        )


def test_no_sample_that_was_ablated_is_a_reason(
    make_small: Callable[..., Small], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = open_run(shutil.copytree(make_small(ablate="components").run.path, tmp_path / "run.zarr"))  # nothing stored
    ablation = run.ablation().compute()
    monkeypatch.setattr(Run, "ablation", lambda run, adapter=None: (np.nan * ablation).assign_attrs(ablation.attrs))
    assert explain(run).reasons["ablation"] == "no sample was wholly ablated yet; capture more of the run"
    assert answers_of(run)[PARTS].startswith(NO_PARTS)


def test_a_planted_token_drives_the_first_direction(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    ids, places = rng.integers(100, 150, 600), np.arange(20) * 30 + rng.integers(1, 30, 20)
    ids[places] = 7
    factor = 0.1 * rng.normal(size=(600, 16))
    factor[places, 0] += 5 + rng.random(20)
    run = write_factors(tmp_path / "run.zarr", {"a.down_proj": factor}, lengths=[30] * 20, ids=ids)
    answer = answers_of(run)[PARTS]
    assert "adds to a.down_proj, the module of largest JS, strongest at “\u00a0t7” (10 of 10 places)" in answer
    assert ", more than random directions (p = 0.0500)." in answer


def test_strongest_tokens_are_shown_whatever_their_test_says(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    ids, factor = rng.integers(100, 102, 600), 0.1 * rng.normal(size=(600, 16))
    run = write_factors(tmp_path / "run.zarr", {"a.down_proj": factor}, lengths=[30] * 20, ids=ids)
    answer = answers_of(run)[PARTS]
    top = explain(run).directions["token"].values[0]
    counts = sorted(np.unique(ids[top], return_counts=True)[1], reverse=True)
    assert f" ({counts[0]} of 10 places), “\u00a0t10" in answer
    assert ", not significantly more than random directions (p = " in answer


def test_the_main_component_is_the_one_whose_removal_costs_most(make_small: Callable[..., Small]) -> None:
    explanation = explain(make_small(ablate="components").run)
    assert explanation.ablation is not None
    kl = explanation.ablation["kl"]
    assert main_component(explanation)[0] == str(kl["part"].values[kl.values.argmax()])
    js = explanation.qualified["js"]
    largest = str(js["component"].values[js.values.argmax()])
    assert main_component(explanation._replace(ablation=None))[0] == largest
