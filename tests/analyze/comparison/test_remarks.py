from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from lorascope.analyze.comparison.compare_metrics import compare_metrics

Make = Callable[..., pd.DataFrame]


def notes(frame: pd.DataFrame, *, metrics: tuple[str, ...] = ("MIUB", "CE"), **options: object) -> list[str]:
    return list(compare_metrics(frame, metrics=metrics, blocks="block", **options).notes)  # type: ignore[arg-type]


def test_what_is_always_said(make_study: Make) -> None:
    frame = make_study()
    needed = compare_metrics(frame, blocks="block").noise["items_needed"][0]
    assert notes(frame) == [
        "all: `n_items` isn't given: how much of accuracy's variation is chance is unknown; half of the pairs of "
        f"settings differ by 2 standard errors from {int(np.ceil(needed))} items on",
        "all: intervals are percentiles over all draws of 4 blocks; of 4 blocks they are too narrow",
        "all: sign flips can't give a p below 0.125, the floor of so few blocks",
        "all: verdicts are about these settings, of which there are 5: what they do in all blocks alike counts once, "
        "and setting_p permutes their labels, in each block the same way, through all orders",
        "all: swap_p asks if either metric could as well have had the other's ranks in a block, for these settings "
        "only: effects drawn anew for other settings may be larger for the other metric",
    ]


def test_many_settings_are_ordered_at_random(make_study: Make) -> None:
    said = notes(make_study(n_settings=8), metrics=("CE",), n_resamples=300, seed=9)
    assert any("of which there are 8" in note and "through 300 random orders (seed 9)" in note for note in said)
    assert not [note for note in said if "swap_p" in note or "labels of settings can't" in note]


def test_few_settings_tell_nothing(make_study: Make) -> None:
    words = (
        "all: labels of settings can't give a p below 0.167: no metric can be seen to follow accuracy before blocks "
        "have more settings in common"
    )
    assert words in notes(make_study(n_settings=3))
    assert words not in notes(make_study(n_settings=4))


def test_draws_at_random(make_study: Make) -> None:
    said = notes(make_study(n_blocks=12), n_resamples=300, seed=9)
    assert "all: intervals are percentiles over 300 random draws (seed 9, two digits) of 12 blocks" in said
    assert not [note for note in said if "sign flips" in note]


def test_of_all_sets_of_cells(make_study: Make) -> None:
    frame = make_study().assign(dataset=lambda f: f["block"].str[:1], model=lambda f: f["block"].str[1:])
    found = compare_metrics(frame).notes
    assert "blocks that share a value of 'dataset' or 'model' count as independent all the same" in found
    assert "p-values aren't corrected for 2 comparisons with the reference" in found


def test_constant_blocks(make_study: Make) -> None:
    frame = make_study()
    frame.loc[frame["block"] == "b1", "CE"] = 0.1
    said = notes(frame)
    assert "all: 'CE' or accuracy is constant in 'b1': left out of means over blocks and of sign flips" in said
    assert "all: up to 0.4 % of draws have no correlation and are left out" in said
    frame.loc[frame["block"] != "b1", "CE"] = 0.1
    frame.loc[frame["block"] == "b1", ["ACC", "CE"]] = [[0.5, k] for k in range(5)]
    said = notes(frame, metrics=("CE",))
    assert any(note.startswith("all: 'CE' or accuracy is constant in 'b0', 'b1', 'b2' and 1 more") for note in said)
    assert not [note for note in said if "floor" in note]


def test_one_block_rules(make_study: Make) -> None:
    frame = make_study()
    frame.loc[frame["block"] != "b2", "ACC"] = frame["ACC"] / 50
    (said,) = [note for note in notes(frame) if "variance" in note]
    assert said.startswith("all: 100.0 % of accuracy's variance within blocks is that of 'b2', as if there were 1.00 ")


def test_two_blocks_of_the_paper_rule(paper: pd.DataFrame) -> None:
    squares = paper.groupby("block")["ACC"].apply(lambda acc: ((acc - acc.mean()) ** 2).sum())
    share = squares[["ARCC/LLaMA3", "ARCE/LLaMA3"]].sum() / squares.sum()
    (said,) = [note for note in notes(paper) if "variance" in note]
    assert f"{100 * share:.1f} % of accuracy's variance within blocks is that of 'ARCC/LLaMA3', 'ARCE/LLaMA3'" in said
    assert f"{1 / ((squares / squares.sum()) ** 2).sum():.2f} blocks of 10" in said


def test_what_is_not_defined(make_study: Make) -> None:
    frame = make_study(n_settings=3).assign(again=lambda f: 2 * f["CE"])
    frame = frame[(frame["setting"] != "s1") | (frame["block"] == "b0")]
    frame["setting"] = frame["block"] + frame["setting"]
    said = notes(frame, metrics=("CE", "again"))
    assert (
        "all: 'CE' and 'again', or one of them and accuracy, are one and the same within blocks: tests of their "
        "correlations aren't defined"
    ) in said
    assert (
        "all: what 'CE' adds to the setting isn't identified: 9 cells leave 0 degrees of freedom beside 9 effects of "
        "block and setting"
    ) in said
    assert (
        "all: concordance of 'again' isn't defined: all blocks have 0 settings in common, and it needs three that some "
        "block tells apart"
    ) in said


@pytest.mark.parametrize(
    ("n_items", "words"),
    [
        (2, "chance alone would give more variance than there is: there is no attainable correlation"),
        (2, "no pair of settings is 2 SE apart: there is nothing for 'CE' to decide"),
        (1000, "errors of accuracy are binomial and independent, and settings that answered the same items share"),
    ],
)
def test_noise(make_study: Make, n_items: int, words: str) -> None:
    said = notes(make_study(), n_items=n_items)
    assert [note for note in said if words in note]


def test_accuracies_without_error(make_study: Make) -> None:
    frame = make_study()
    frame.loc[0, "ACC"] = 1.0
    words = "all: accuracies of 0 or 1 count as without error, which they aren't"
    assert words in notes(frame, n_items=50)
    assert words not in notes(make_study(), n_items=50)


def test_most_pairs_are_tied(make_study: Make) -> None:
    frame = make_study().assign(ACC=[0.5, 0.5, 0.5, 0.5, 0.6] * 4)
    said = notes(frame)
    assert [note for note in said if "half of the pairs of settings have the same accuracy, whatever" in note]


def test_each_set_of_cells_says_its_own(make_study: Make) -> None:
    said = notes(make_study(), collapsed_below=0.4)
    for name in ("all", "ACC >= 0.4"):
        assert any(note.startswith(f"{name}: intervals are percentiles") for note in said)
