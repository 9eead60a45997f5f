"""What the report opens with: the answers of each kind of run, and the words of a planted one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorascope.analyze import explain
from lorascope.analyze.report import paragraph
from lorascope.analyze.report.learned import main_component
from lorascope.analyze.report.matters import answer_what_matters
from lorascope.analyze.results.format import format_number
from lorascope.stores import Run, StoreError, open_run
from lorascope.stores.format.spec import ROW_TOKENS

from ...conftest import write_run as write_many
from ..conftest import Small
from ..directions.test_drivers import write_factors

REPLIES, CHANGES, MATTERS, DIRECTIONS, RANKS, HELPS, ACTS = QUESTIONS = (
    "What do its replies look like?",
    "What changes in the next token?",
    "What matters?",
    "Which directions?",
    "How many ranks?",
    "Does it help?",
    "Where does it act?",
)
NO_CHANGES = (
    "Can't tell what changed, since the run holds no next-token changes; capture it again with `--changes all`."
)
NO_PARTS = "Can't tell which part matters, since the run holds no importance; capture it again with `--importance 4`."
NO_STATES = "Can't tell, since the run stores no states, the outputs of modules; capture it with `--states all`."
PAIR = "Can't tell, since stream 'pair' stores changes as a whole, not in low-rank form; capture stream 'adapted'."
NO_FACTOR = (
    "Can't tell, since no module's change is stored in low-rank form (as with DoRA), which directions and ranks need."
)
NONE_COMMITTED = "Can't tell, since no token with states is committed yet; capture more of the run."
CHOSEN = "it is only known of all components, and some were chosen"
KINDS_OF_RUNS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "plain": (
        {},
        {
            HELPS: "With the adapter, accuracy ",
            ACTS: "(Jensen-Shannon divergence; the sum, MIUB, is 0.484 ± 0.025 nat over 12 samples). With the ",
            CHANGES: NO_CHANGES,
            MATTERS: NO_PARTS,
        },
    ),
    "not scored": ({"is_scored": False}, {HELPS: "Can't tell, since no sample was scored."}),
    "components": (
        {"ablate": "components"},
        {
            MATTERS: "With parts taken out one at a time, predictions change most without model.layers.0.down_proj (KL "
            "4.1 ± 1.5 nat over 37 tokens of 6 samples; not significantly more than without model.layers.1.q_proj, "
            "model.layers.1.up_proj and model.layers.1.down_proj).",
            DIRECTIONS: "adds to model.layers.0.down_proj, whose removal changes predictions most, one direction of 2 ",
        },
    ),
    "importance": (
        {"importance": True},
        {
            MATTERS: "Predictions depend most on layer",
            DIRECTIONS: ", on which predictions depend most, one direction of 2 has ",
        },
    ),
    "layers": (
        {"ablate": "layers"},
        {MATTERS: "change most without layer 0 (KL "},
    ),
    "kinds": (
        {"ablate": "kinds"},
        {
            MATTERS: "change most without modules named down_proj (KL ",
            DIRECTIONS: ", where its effect is largest, one direction of 2 has ",
        },
    ),
    "pair": ({"stream": "pair"}, {DIRECTIONS: PAIR, RANKS: PAIR}),
    "no states": (
        {"states": "none"},
        {
            ACTS: "Whether that is much isn't known, since a comparison needs the stored outputs",
            DIRECTIONS: NO_STATES,
            RANKS: NO_STATES,
        },
    ),
    "some states": (
        {"states": "sample", "state_rows": (False, True), "n_tokens": 120},
        {
            RANKS: "; too few tokens for an error), and ",
            DIRECTIONS: "_proj, where its effect is largest, one direction of 2 has ",
        },
    ),
    "none of some states": (
        {"states": "sample", "state_rows": (False, False), "n_tokens": 120},
        {DIRECTIONS: NONE_COMMITTED, RANKS: NONE_COMMITTED},
    ),
    "DoRA": ({"factored": False}, {DIRECTIONS: NO_FACTOR, RANKS: NO_FACTOR}),
    "nothing changed": (
        {"zero": True},
        {
            ACTS: "Nowhere: the adapter changes no module's output in any of 12 samples.",
            DIRECTIONS: "Can't tell, since what the adapter adds to model.layers.0.q_proj is 0, or not finite.",
            RANKS: "Can't tell, since what the adapter adds is 0 or not finite on all of 73 tokens.",
        },
    ),
    "nothing changed, ablated": (
        {"zero": True, "ablate": "components"},
        {DIRECTIONS: "Can't tell, since what the adapter adds to model."},
    ),
    "not finite": (
        {"not_finite": True},
        {
            ACTS: "contain NaN or infinity (number of undefined effects: 1).",
            DIRECTIONS: "_proj, one direction of 2 has ",
        },
    ),
    "outside": ({"outside": True}, {ACTS: "The adapter's effect is largest in layers 0 and 1 (83.2 % of all; "}),
    "one sample": (
        {"n_samples": 1, "ablate": "components"},
        {
            ACTS: "MIUB, is 0.436 nat over one sample, which gives no error).",
            MATTERS: "Can't tell which part matters by taking parts out: whichever is removed, predictions of the next "
            "token change by less than twice the standard error (7 tokens of one sample, which gives no error).",
            DIRECTIONS: "_proj, one direction of 2 has ",
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
    assert {question: words for question, words in expected.items() if words not in answers[question]} == {}


def test_divergence_of_the_next_token_weighs_drawn_tokens(make_small: Callable[..., Small]) -> None:
    for is_weighted in (False, True):
        small = make_small(is_weighted=is_weighted, kl_share=0.6)
        kl = small.run.reduction("kl").values.astype(float)
        known = np.isfinite(kl)
        mean = np.average(kl[known], weights=small.weight[known] if is_weighted else None)
        expected = "What was predicted becomes "
        expected += f"{100 * (1 - np.exp(-mean)):.1f} % less probable on average (Kullback-Leibler divergence, KL: "
        expected += f"{format_number(mean)} nat over {known.sum()} tokens)."
        assert answers_of(small.run)[CHANGES] == f"{expected} {NO_CHANGES}"


def test_the_most_important_parts(make_small: Callable[..., Small]) -> None:
    explanation = explain(make_small(importance=True).run)
    assert explanation.importance is not None
    tree = explanation.importance.copy()
    for node, (value, share) in {"layers": ([1, 3], [0.25, 0.75]), "kinds": ([6, 2, 2], [0.6, 0.2, 0.2])}.items():
        dim = node.removesuffix("s")
        tree[node] = tree[node].to_dataset().assign(value=(dim, value), share=(dim, share))
    kinds = tree["kinds"]["kind"].values
    for last, words in ((0.5, ""), (0.98, "not significantly ")):
        value = np.array([1.0, *[last] * 5])
        components = tree["components"].to_dataset()
        tree["components"] = components.assign(value=("component", value), se=("component", np.full(6, 0.02)))
        assert answer_what_matters(explanation._replace(importance=tree)) == (
            f"Predictions depend most on layer 1 (75.0 %; 50.0 % if all were equal), modules named {kinds[0]} (60.0 %; "
            f"33.3 % if all were equal), of modules on {components['component'].values[0]} (1.000 ± 0.020 nat, {words}"
            "more than any other; importance: KL without the part, estimated from gradients, over 5 samples)."
        )
    tree["components"] = tree["components"].to_dataset().assign(se=("component", np.full(6, 0.6)))
    assert answer_what_matters(explanation._replace(importance=tree)) == (
        "Can't tell which part matters: no module's importance is above twice its error (importance: KL without the "
        "part, estimated from gradients, over 5 samples)."
    )


def test_some_components_alone(small: Small, make_small: Callable[..., Small]) -> None:
    for run in (small.run, make_small(ablate="components").run):
        explanation = explain(run, components=["*.up_proj"])
        assert explanation.directions is not None
        assert explanation.directions["component"].values.tolist() == [f"model.layers.{n}.up_proj" for n in (0, 1)]
        answers = dict(paragraph(run, explanation))
        assert explanation.reasons["ablation"] == explanation.reasons["importance"] == CHOSEN
        assert answers[MATTERS] == f"Can't tell which part matters, since {CHOSEN}."


def test_a_run_that_is_not_finished_and_one_of_several_adapters(tmp_path: Path, two_adapters: Path) -> None:
    path = write_many(tmp_path / "run.zarr", rows=(0, 2))
    explanation = explain(path)
    assert explanation.directions is not None
    committed = np.r_[:ROW_TOKENS, 2 * ROW_TOKENS : 2500]
    n_later = int((open_run(path).tokens["position"].values[committed] > 0).sum())
    assert 0 < n_later < len(committed)
    assert explanation.directions.attrs["n_tokens"] == n_later
    assert f"over {n_later} tokens, without the first of each sample)" in answers_of(path)[RANKS]
    assert explanation.directions["component"].size == 3  # of the fourth, delta itself is stored
    with pytest.raises(StoreError, match="no sample of .* is wholly committed yet; capture more of it"):
        explain(write_many(tmp_path / "empty.zarr", rows=()))
    run = open_run(two_adapters)
    with pytest.raises(StoreError, match="`adapter` isn't given, and this run holds several"):
        explain(run)
    for name in run.adapters:
        explanation = explain(run, adapter=name)
        assert explanation.qualified.attrs["adapter"] == name
        assert explanation.reasons["ablation"].startswith("stream 'base' has no pass with the adapter; ")


def test_no_sample_that_was_ablated_is_a_reason(
    make_small: Callable[..., Small], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_small(ablate="components").run
    ablation = run.ablation().compute()
    monkeypatch.setattr(Run, "ablation", lambda run, adapter=None: (np.nan * ablation).assign_attrs(ablation.attrs))
    assert explain(run).reasons["ablation"] == "no sample was wholly ablated yet; capture more of the run"
    assert answers_of(run)[MATTERS] == NO_PARTS


def test_a_planted_token_drives_the_first_direction(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    ids, places = rng.integers(100, 150, 600), np.arange(20) * 30 + rng.integers(1, 30, 20)
    ids[places] = 7
    factor = 0.1 * rng.normal(size=(600, 16))
    factor[places, 0] += 5 + rng.random(20)
    run = write_factors(tmp_path / "run.zarr", {"a.down_proj": factor}, lengths=[30] * 20, ids=ids)
    answer = answers_of(run)[DIRECTIONS]
    assert answer.startswith(
        "Of what the adapter adds to a.down_proj, where its effect is largest, one direction of 16 "
    )
    assert "is strongest at “\u00a0t7” (10 of its 10 strongest places), first of all in “" in answer
    assert "[ t7] t1" in answer
    assert answer.endswith("and more about one token than random directions (p = 0.0500).")


def test_strongest_tokens_are_shown_whatever_their_test_says(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    ids, factor = rng.integers(100, 102, 600), 0.1 * rng.normal(size=(600, 16))
    run = write_factors(tmp_path / "run.zarr", {"a.down_proj": factor}, lengths=[30] * 20, ids=ids)
    answer = answers_of(run)[DIRECTIONS]
    top = explain(run).directions["token"].values[0]
    counts = sorted(np.unique(ids[top], return_counts=True)[1], reverse=True)
    assert f" ({counts[0]} of its 10 strongest places), “\u00a0t10" in answer
    assert "and not significantly more about one token than random directions (p = " in answer


def test_the_main_component_is_the_one_whose_removal_costs_most(make_small: Callable[..., Small]) -> None:
    explanation = explain(make_small(ablate="components").run)
    assert explanation.ablation is not None
    kl = explanation.ablation["kl"]
    assert main_component(explanation) == str(kl["part"].values[kl.values.argmax()])
    js = explanation.qualified["js"]
    largest = str(js["component"].values[js.values.argmax()])
    assert main_component(explanation._replace(measures=None)) == largest
