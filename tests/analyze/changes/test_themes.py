"""Themes that were planted are found with their places; without a real change there are none."""

import numpy as np

from lorascope.analyze.changes.themes import STABLE, find_themes

from .distributions import exchange_by_sample, places_of, random_distributions

N_SAMPLES, N_PLACES, VOCABULARY = 30, 20, 60
SAMPLE = np.repeat(np.arange(N_SAMPLES), N_PLACES)
SEA, WAR = [3, 11, 25, 40], [7, 18, 33, 51]


def planted(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Words of the sea gain at the first ten places of a sample, words of war at the last ten."""
    q = random_distributions(rng, len(SAMPLE), VOCABULARY, sharpness=1.0)
    p = q * np.exp(0.1 * rng.normal(size=q.shape))
    is_early = np.arange(len(SAMPLE)) % N_PLACES < 10
    for theme, places in ((SEA, is_early), (WAR, ~is_early)):
        p[np.ix_(places, theme)] += rng.uniform(0.05, 0.15, (places.sum(), 4))
    return p / p.sum(axis=1, keepdims=True), q


def test_planted_themes_are_found() -> None:
    themes = find_themes([places_of(*planted(np.random.default_rng(0)), SAMPLE)])
    assert sorted(set(tokens[:4].tolist()) for tokens in themes["tokens"]) == [set(SEA), set(WAR)]
    assert (themes["stability"] >= STABLE).all()
    assert themes["share"].sum() > 0.9  # nearly all of the KL
    first = SEA if set(themes["tokens"][0][:4]) == set(SEA) else WAR
    positions = themes["places"] % N_PLACES
    assert ((positions < 10).all(axis=1) == [first is SEA, first is WAR]).all()
    assert all(len(set(SAMPLE[places])) == 5 for places in themes["places"])


def test_themes_of_equal_size_are_found_whichever_is_larger_in_a_half() -> None:
    rng, n = np.random.default_rng(3), 24
    sample = np.repeat(np.arange(n), 8)
    q = random_distributions(rng, len(sample), VOCABULARY, sharpness=1.0)
    p = q * np.exp(0.1 * rng.normal(size=q.shape))
    for parity, theme in enumerate((SEA, WAR)):
        p[np.ix_(sample % 2 == parity, theme)] += 0.3
    themes = find_themes([places_of(p / p.sum(axis=1, keepdims=True), q, sample)])
    assert sorted(set(tokens[:4].tolist()) for tokens in themes["tokens"]) == [set(SEA), set(WAR)]


def test_an_equal_control_leaves_no_theme() -> None:
    places = places_of(*planted(np.random.default_rng(0)), SAMPLE)
    themes = find_themes([places, places])
    assert themes["tokens"].shape == (0, 10)


def test_exchanged_distributions_have_no_theme() -> None:
    rng = np.random.default_rng(1)
    p, q = exchange_by_sample(*planted(rng), SAMPLE, rng)
    assert not len(find_themes([places_of(p, q, SAMPLE)])["share"])


def test_two_samples_have_no_theme() -> None:
    here = SAMPLE < 2
    p, q = planted(np.random.default_rng(2))
    assert not len(find_themes([places_of(p[here], q[here], SAMPLE[here])])["share"])


def test_places_of_a_theme_gain_one_of_its_shown_tokens() -> None:
    rng, sample = np.random.default_rng(0), np.repeat(np.arange(6), 12)
    q = random_distributions(rng, len(sample), VOCABULARY, sharpness=1.0)
    p = q * np.exp(0.02 * rng.normal(size=q.shape))
    for place in p:  # a theme of thirty tokens, of which the last two samples have only weak ones
        place[:30] += 0.1 * np.linspace(1, 0.5, 30)
    for place in range(48, 72):
        p[place] = q[place]
        p[place, rng.choice(np.arange(20, 30), 2, replace=False)] += 0.02
    every = [places_of(p / p.sum(axis=1, keepdims=True), q, sample)]
    themes = find_themes(every)
    assert len(themes["share"])
    for tokens, places in zip(themes["tokens"], themes["places"], strict=True):
        gaining = every[0].values["gain_token"][places[places >= 0]]
        assert np.isin(gaining, tokens[tokens >= 0]).any(axis=1).all()
