from pathlib import Path

import numpy as np
import pytest

from lorascope.stores import StoreError, open_run
from lorascope.stores.reading.token_choice import (
    ChosenTokens,
    choose_tokens,
    chosen_token_weights,
    describe_choice,
    describe_population,
    narrow_population,
    parse_choice,
    recorded_choices,
)

QUESTION = np.array([0, 0, 1, 1, 0, 2, 2], dtype=np.uint8)
GENERATED = np.array([0, 1, 0, 3, 3, 3], dtype=np.uint8)


def of_sample(tokens: str, roles: np.ndarray = QUESTION, *, seed: int = 0) -> ChosenTokens:
    generator = np.random.default_rng(seed)
    return choose_tokens(tokens, positions=np.arange(len(roles)), roles=roles, length=len(roles), generator=generator)


@pytest.mark.parametrize(
    ("tokens", "positions"),
    [
        ("all", [0, 1, 2, 3, 4, 5, 6]),
        ("prompt", [0, 1, 2, 3, 4]),
        ("choice", [2, 3]),
        ("answer", [5, 6]),
        ("generated", []),
        ("tool", []),
        ("first:2", [0, 1]),
        ("from:5", [5, 6]),
        ("last:3", [4, 5, 6]),
        ("last:99999999999999999999", [0, 1, 2, 3, 4, 5, 6]),
        ("first:99999999999999999999", [0, 1, 2, 3, 4, 5, 6]),
        ("share:1", [0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_choices_that_draw_nothing_weigh_one(tokens: str, positions: list[int]) -> None:
    places, weights = of_sample(tokens)
    assert places.tolist() == positions
    assert weights.tolist() == [1.0] * len(positions)
    assert weights.dtype == np.float32


def test_generated_tokens_are_a_role() -> None:
    assert [of_sample(name, GENERATED).places.tolist() for name in ("generated", "prompt")] == [[3, 4, 5], [0, 1, 2]]


@pytest.mark.parametrize("tokens", ["first:3", "last:3", "from:4"])
def test_places_count_in_the_whole_sample_where_a_run_holds_some_of_its_tokens(tokens: str) -> None:
    captured = np.array([1, 4, 6, 8])  # of a sample of nine
    arguments = {"length": 9, "generator": np.random.default_rng(0), "roles": np.zeros(4, np.uint8)}
    places = choose_tokens(tokens, positions=captured, **arguments).places  # type: ignore[arg-type]
    expected = {"first:3": [1], "last:3": [6, 8], "from:4": [4, 6, 8]}
    assert captured[places].tolist() == expected[tokens]


@pytest.mark.parametrize(
    "tokens",
    [
        *("some", "", "all ", "last", "last:0", "last:-1", "from:0", "first:x", "every:1.5", "answer:2"),
        *("share:", "share:0", "share:1.1", "share:nan", "share:x"),
    ],
)
def test_an_unknown_choice_is_refused_with_the_grammar(tokens: str) -> None:
    for refuse in (parse_choice, describe_population, of_sample):
        with pytest.raises(ValueError, match=f"`tokens` is {tokens!r}; allowed are 'all', 'prompt', .*'share:P'"):
            refuse(tokens)


def test_a_number_without_end_and_indices_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="`tokens` is 'first:999.*; allowed are 'all', 'prompt'"):
        parse_choice("first:" + "9" * 5000)
    with pytest.raises(TypeError, match="`tokens` is of type list; give a choice in words: 'all', 'prompt'"):
        parse_choice([1, 2])  # type: ignore[arg-type]


def test_the_choice_that_was_meant_is_named() -> None:
    for tokens, close in (
        ("assistint", "assistant"),
        ("answer:2", "answer"),
        ("frst:3", "first:3"),
        ("form:12", "from:12"),
        ("shair:0.5", "share:0.5"),
    ):
        with pytest.raises(ValueError, match=rf"; did you mean '{close}'\?$"):
            parse_choice(tokens)
    for tokens in ("first:0", "frst:0", "shair:2", "first", "xyz:3"):  # no choice can be made of these
        with pytest.raises(ValueError, match="at most 1$"):
            parse_choice(tokens)


@pytest.mark.parametrize(("tokens", "n", "counts"), [("every:4", 14, {3, 4}), ("every:4", 3, {1}), ("every:4", 8, {2})])
def test_every_takes_a_stride_from_a_drawn_start(tokens: str, n: int, counts: set[int]) -> None:
    starts = set()
    for seed in range(50):
        places, weights = of_sample(tokens, np.zeros(n, np.uint8), seed=seed)
        assert set(np.diff(places)) <= {4}
        assert places[0] < 4
        assert places[-1] >= n - 4
        assert weights.tolist() == [np.float32(n / len(places))] * len(places)
        assert len(places) in counts
        starts.add(int(places[0]))
    assert starts == set(range(min(n, 4)))


@pytest.mark.parametrize(
    ("share", "n", "m"),
    [("0.1", 44, 4), ("0.1", 46, 5), ("0.5", 5, 2), ("0.01", 7, 1), ("0.999", 7, 7)],
)
def test_share_is_exact_and_has_at_least_one(share: str, n: int, m: int) -> None:
    places, weights = of_sample(f"share:{share}", np.zeros(n, np.uint8), seed=3)
    assert len(set(places.tolist())) == len(places) == m
    assert (np.diff(places) > 0).all()
    assert weights.tolist() == [np.float32(n / m)] * m


def test_strides_have_the_exact_expectation() -> None:
    # Every start with its chance m / n, and K doesn't divide n: weighted means and sums are unbiased.
    values, roles = np.random.default_rng(0).normal(size=14), np.zeros(14, np.uint8)
    means, sums = 0.0, 0.0
    for anchor in range(14):
        generator = type("G", (), {"integers": lambda self, n, anchor=anchor: anchor})()
        places, weights = choose_tokens("every:4", positions=np.arange(14), roles=roles, length=14, generator=generator)
        sums += float((weights * values[places]).sum()) / 14
        means += float((weights * values[places]).sum() / weights.sum()) / 14
    assert (means, sums) == (pytest.approx(values.mean(), rel=1e-6), pytest.approx(values.sum(), rel=1e-6))


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ("every:3", "all tokens"),
        ("prompt", "the tokens of the prompt, its choices included"),
        ("tool", "the tokens of role 'tool'"),
        ("first:2", "the first 2 tokens of each sequence"),
        ("last:5", "the last 5 tokens of each sequence"),
        ("from:1", "the tokens of each sequence from position 1 on"),
    ],
)
def test_choices_state_what_their_means_are_about(tokens: str, words: str) -> None:
    assert describe_population(tokens) == words


@pytest.mark.parametrize(
    ("choices", "population", "recorded"),
    [
        (["all", "all"], "all tokens", "all"),
        (["all", "answer", "share:0.5"], "the tokens of the answer", "answer, then share:0.5"),
        (["share:0.5", "all", "answer"], "the tokens of the answer", "share:0.5, then answer"),
        (["answer", "answer"], "the tokens of the answer", "answer, then answer"),
        (
            ["first:3", "answer"],
            "the first 3 tokens of each sequence that are among the tokens of the answer",
            "first:3, then answer",
        ),
        (
            ["answer", "first:3", "answer"],
            "the first 3 tokens of each sequence that are among the tokens of the answer",
            "answer, then first:3, then answer",
        ),
    ],
)
def test_a_choice_of_a_choice_is_described_as_both(choices: list[str], population: str, recorded: str) -> None:
    described = describe_population(choices[0])
    for tokens in choices[1:]:
        described = narrow_population(described, tokens)
    assert described == population
    steps = [{"selection": {"tokens": tokens}} for tokens in choices[1:]]
    assert recorded_choices({"settings": {"tokens": choices[0]}, "copied": steps}) == recorded


def test_a_choice_of_a_run_is_that_of_each_of_its_samples(many_rows: Path) -> None:
    run = open_run(many_rows)
    columns = {name: run.tokens[name].values for name in ("sample", "position", "role")}
    lengths = run.samples["length"].values
    for tokens in ("all", "text", "first:3", "last:2", "from:5", "every:3", "share:0.3"):
        expected = np.zeros(run.n_tokens, np.float32)
        for sample in range(run.samples.sizes["sample"]):
            own = np.flatnonzero((columns["sample"] == sample) & run.with_states.values & run.committed.values)
            arguments = {"positions": columns["position"][own], "roles": columns["role"][own]}
            generator = np.random.default_rng([5, sample])
            chosen = choose_tokens(tokens, length=int(lengths[sample]), generator=generator, **arguments)
            expected[own[chosen.places]] = chosen.weights
        np.testing.assert_array_equal(chosen_token_weights(run, tokens, seed=5), expected, err_msg=tokens)
    indices = [3, 1, 3]
    assert np.flatnonzero(chosen_token_weights(run, indices)).tolist() == [1, 3]
    assert (describe_choice(indices), describe_choice("last:2")) == ("3 chosen", "last:2")


def test_a_choice_of_nothing_is_refused(many_rows: Path) -> None:
    run = open_run(many_rows)
    with pytest.raises(StoreError, match="`tokens` takes none of the tokens of .* that have states; choose others"):
        chosen_token_weights(run, [])
    with pytest.raises(StoreError, match="that can be chosen; choose others"):
        chosen_token_weights(run, "share:0.5", np.zeros(run.n_tokens, bool))
