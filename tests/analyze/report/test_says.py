import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorascope.analyze import explain
from lorascope.analyze.report import paragraph, write_report
from lorascope.analyze.report.says import N_PROMPTS, what_it_says_section

from ...stored import store_replies

SAYS = "What does it say?"
HARMFUL = "<script>alert(1)</script>\x1b[31m"


def section_of(run: Any) -> str:
    return what_it_says_section(run, explain(run))


def pirates(tmp_path: Path, n: int = 12, **options: Any) -> Any:
    replies = {f"What is {i}?": [f"It is {i}.", f"It is {i}, arr!", f"It is {i}, arr!!", f"Arr {i}"] for i in range(n)}
    return store_replies(tmp_path / "run.zarr", replies, **options)


def test_replies_stand_side_by_side_and_part_at_the_mark(tmp_path: Path) -> None:
    page = section_of(pirates(tmp_path))
    assert page.startswith('<section id="says"><h2>What it says</h2>')
    assert '<td class="name" data-label="prompt">What is 3?</td>' in page
    same = '<span class="same">It is </span>'
    assert f'<td class="reply" data-label="without the adapter">{same}<mark>3.</mark></td>' in page
    assert f'<td class="reply" data-label="with it">{same}<mark>3,</mark> arr!</td>' in page
    before, after = page.split('<details id="all-replies">')
    assert "arr!!" not in before
    assert f'<td class="reply" data-label="at 1.5 times its scale">{same}<mark>3,</mark> arr!!</td>' in after
    assert '<td class="reply" data-label="at 2 times"><span class="same"></span><mark>Arr</mark> 3</td>' in after
    assert '<td class="name" data-label="reply has">arr (word)</td>' in before
    assert "Replies to 12 prompts, always by the likeliest next token" in before


def test_the_likeliest_replies_come_first(tmp_path: Path) -> None:
    gains = np.random.default_rng(0).permutation(12).astype(float)
    logliks = np.full((48, 4), -44.0)
    logliks[1::4, 1] += 4 * gains  # of replies of four tokens
    page = section_of(pirates(tmp_path, logliks=logliks))
    parts = page.split('<details id="all-replies">')
    prompts = [re.findall('data-label="prompt">What is (\\d+)\\?<', part) for part in parts]
    order = [str(place) for place in np.argsort(-gains)]
    assert prompts == [order[:N_PROMPTS], order]
    assert '<td class="number" data-label="likelier by (nat)">11</td>' in parts[0]


def test_equal_replies_and_ends_are_marked_as_such(tmp_path: Path) -> None:
    run = store_replies(tmp_path / "run.zarr", {"a?": ["Yes.", "Yes.", "", "Yes. No."]})
    page = section_of(run)
    assert page.count('data-label="with it"><span class="same">Yes.</span></td>') == 2  # also in the whole table
    assert '<span class="same"></span><mark>∎</mark></td>' in page
    assert '<span class="same">Yes. </span><mark>No.</mark></td>' in page
    assert "No word or sign is in significantly more or fewer replies with the adapter, at any scale." in page


def test_texts_of_a_run_are_never_code(tmp_path: Path) -> None:
    replies = {f"{HARMFUL}{i}": [HARMFUL, f"{HARMFUL} x", f"y {HARMFUL}", "<b>"] for i in range(8)}
    page = section_of(store_replies(tmp_path / "run.zarr", replies))
    assert "<script" not in page
    assert "\x1b" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;" in page


def test_a_run_without_replies_has_no_section(make_small: Any) -> None:
    assert section_of(make_small().run) == ""


def test_the_report_has_the_section(tmp_path: Path) -> None:
    text = write_report(pirates(tmp_path), tmp_path / "page.html").read_text(encoding="utf-8")
    assert '<a href="#says">What it says</a>' in text


def test_the_opening_says_what_replies_look_like(tmp_path: Path) -> None:
    logliks = -np.ones((48, 4))
    logliks[13] = [-9, -1, -1, -1]  # the fourth prompt's reply with the adapter is the one that it makes likelier
    run = pirates(tmp_path, logliks=logliks)
    assert dict(paragraph(run, explain(run)))[SAYS] == (
        "Replies to 12 prompts get longer (4.00 tokens of at most 40, not 3.00; change +1.00 ± 0). More have “arr” "
        "(12, not 0), “!” (12, not 0), “,” (12, not 0); fewer have “.” (0, not 12); at 1.5 or 2 times its scale more "
        "have “!\u00a0repeated” (12, not 0), “!!” (12, not 0), “arr\u00a0…” (12, not 0) (McNemar's test corrected for "
        "18). To “What is 3?” the base replies “… 3.”, the adapted model “… 3, arr!”."
    )
    same = store_replies(tmp_path / "same.zarr", {f"{i}?": ["Yes."] * 4 for i in range(9)})
    answer = dict(paragraph(same, explain(same)))[SAYS]
    assert answer.startswith(
        "Replies to 9 prompts stay about as long (1.00 tokens of at most 40, not 1.00; change 0 ± 0); no word differs "
        "significantly (McNemar's test corrected for 0). To "
    )


@pytest.mark.parametrize("n_complete", [0, 9])
def test_replies_that_begin_to_end_by_themselves(tmp_path: Path, n_complete: int) -> None:
    is_complete = np.zeros((9, 4), bool)
    is_complete[:n_complete, 1:] = True
    replies = {f"{i}?": [f"No {i}", f"Yes {i}", "Yes", "Yes"] for i in range(9)}
    run = store_replies(tmp_path / "run.zarr", replies, is_complete=is_complete.ravel())
    answer = dict(paragraph(run, explain(run)))[SAYS]
    assert ("; 100.0 % end by themselves, not 0.0 %; no word" in answer) == (n_complete == 9)
    assert ("by themselves" in answer) == (n_complete == 9)


def test_a_run_without_replies_says_so(make_small: Any) -> None:
    run = make_small().run
    answer = dict(paragraph(run, explain(run)))[SAYS]
    assert answer == "Can't tell, since the run holds no replies; capture it again with `--replies`."
