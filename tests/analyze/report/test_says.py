import re
from pathlib import Path
from typing import Any

from lorascope.analyze.report import write_report
from lorascope.analyze.report.says import MOST_PROMPTS, what_it_says_section

from ...stored import store_replies

HARMFUL = "<script>alert(1)</script>\x1b[31m"


def text_of(html: str) -> str:
    return re.sub(r"<[^>]*>", "", html).replace("\xa0", " ")


def pirates(tmp_path: Path, n: int = 12) -> Any:
    replies = {f"What is {i}?": [f"It is {i}.", f"It is {i}, arr!", f"It is {i}, arr!!", f"Arr {i}"] for i in range(n)}
    return store_replies(tmp_path / "run.zarr", replies)


def test_replies_stand_side_by_side_and_part_at_the_mark(tmp_path: Path) -> None:
    page = what_it_says_section(pirates(tmp_path), "default")
    assert page.startswith('<section id="says"><h2>What it says</h2>')
    assert '<td class="name" data-label="prompt">What is 3?</td>' in page
    same = '<span class="same">It is </span>'
    assert f'<td class="reply" data-label="without the adapter">{same}<mark>3.</mark></td>' in page
    assert f'<td class="reply" data-label="with it">{same}<mark>3,</mark> arr!</td>' in page
    before, after = page.split('<details id="amplified">')
    assert "arr!!" not in before
    assert f'<td class="reply" data-label="at 1.5 times its scale">{same}<mark>3,</mark> arr!!</td>' in after
    assert '<td class="reply" data-label="at 2 times"><span class="same"></span><mark>Arr</mark> 3</td>' in after
    assert '<td class="name" data-label="reply has">arr (word)</td>' in before
    assert "replied to 12 short prompts with at most 40 tokens" in before
    assert "Replies have 4.00 ± 0 tokens with the adapter and 3.00 ± 0 without it (difference +1.00 ± 0)" in text_of(
        before
    )
    assert "end by themselves (100" in text_of(before)


def test_equal_replies_and_ends_are_marked_as_such(tmp_path: Path) -> None:
    run = store_replies(tmp_path / "run.zarr", {"a?": ["Yes.", "Yes.", "", "Yes. No."]})
    page = what_it_says_section(run, "default")
    assert page.count('data-label="with it"><span class="same">Yes.</span></td>') == 1
    assert '<span class="same"></span><mark>∎</mark></td>' in page
    assert '<span class="same">Yes. </span><mark>No.</mark></td>' in page
    assert "No word or sign is in significantly more or fewer replies with the adapter." in page


def test_texts_of_a_run_are_never_code(tmp_path: Path) -> None:
    replies = {f"{HARMFUL}{i}": [HARMFUL, f"{HARMFUL} x", f"y {HARMFUL}", "<b>"] for i in range(8)}
    page = what_it_says_section(store_replies(tmp_path / "run.zarr", replies), "default")
    assert "<script" not in page
    assert "\x1b" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;" in page


def test_a_run_without_replies_and_one_with_many(tmp_path: Path, make_small: Any) -> None:
    assert what_it_says_section(make_small().run, "default") == ""
    page = what_it_says_section(pirates(tmp_path, MOST_PROMPTS + 1), "default")
    assert f"Of {MOST_PROMPTS + 1}, the first {MOST_PROMPTS} are shown." in page
    assert f"What is {MOST_PROMPTS - 1}?" in page
    assert f"What is {MOST_PROMPTS}?" not in page


def test_the_report_has_the_section(tmp_path: Path) -> None:
    text = write_report(pirates(tmp_path), tmp_path / "page.html").read_text(encoding="utf-8")
    assert '<a href="#says">What it says</a>' in text
