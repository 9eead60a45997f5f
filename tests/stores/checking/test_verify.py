from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorascope.stores import StoreError, verify

from ..on_disk import damage, lose_rows, unfinish

F32 = "model.layers.0.mlp.up_proj"
BASE = f"states/{F32}/base"


def test_sound_run_has_no_problem(make_run: Any) -> None:
    calls: list[tuple[int, int]] = []
    verdict = verify(make_run().path, progress=lambda done, total: calls.append((done, total)))
    assert verdict.ok
    assert (verdict.level, verdict.n_rows, verdict.n_committed) == ("statistics", 3, 3)
    assert verdict.n_chunks > 3 * 6
    assert calls == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("how", ["missing", "empty", "truncated", "flip", "folder"])
@pytest.mark.parametrize(
    ("level", "path"), [("digests", BASE), ("decode", "adapters/default/factor"), ("statistics", "tokens/nll")]
)
def test_every_level_names_a_damaged_chunk(make_run: Any, level: Any, how: str, path: str) -> None:
    run = make_run()
    key = f"{path}/c.1.0" if path != "tokens/nll" else f"{path}/c.1"
    damage(run.path / key, how)
    problems = verify(run.path, level=level).problems
    kinds = {p.kind for p in problems if p.place == key}
    assert kinds == {{"truncated": "decode", "flip": "decode", "folder": "file"}.get(how, how)}
    assert not [p for p in problems if p.place.startswith("row ") and p.place != "row 1"]


def test_swapped_chunks_fail_the_digest_alone(make_run: Any) -> None:
    """Both chunks decode and look sound; only the digest knows that they stand under the wrong rows."""
    run = make_run()
    first, second = run.path / f"{BASE}/c.0.0", run.path / f"{BASE}/c.1.0"
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    assert [(p.place, p.kind) for p in verify(run.path, level="decode").problems] == [
        ("row 0", "digest"),
        ("row 1", "digest"),
    ]


@pytest.mark.parametrize(
    ("path", "how"),
    [
        *(("samples/ce", "missing"), ("samples/ce", "flip"), (f"adapters/default/lora_B/{F32}", "flip")),
        *(("adapters/default/nulls/kl", "flip"), ("adapters/default/nulls/miub", "missing")),
        *((f"adapters/default/importance/{name}", "flip") for name in ("gradient", "sample", "singular_value")),
    ],
)
def test_damaged_table_or_weight_is_found(make_run: Any, path: str, how: str) -> None:
    run = make_run(importance=(6, 9), n_variants=3)
    (file,) = (run.path / path).glob("c.*")
    damage(file, how)
    found = {(p.place, p.kind) for p in verify(run.path, level="digests").problems}
    assert found == {(f"{path}/{file.name}", {"flip": "decode"}.get(how, how)), ("tables", "digest")}


@pytest.mark.parametrize("column", ["prompt", "text", "scale", "n_tokens", "is_complete", "loglik_0", "loglik_1_5"])
@pytest.mark.parametrize("level", ["digests", "decode"])
def test_a_flipped_bit_of_replies_is_found(make_run: Any, level: Any, column: str) -> None:
    path = make_run(n_replies=8).path
    assert verify(path, level=level).ok
    chunk = path / f"adapters/default/replies/{column}/c.0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    problems = verify(path, level=level).problems
    assert f"adapters/default/replies/{column}/c.0" in [problem.place for problem in problems]


def test_run_without_a_committed_row_never_passes(make_run: Any) -> None:
    verdict = verify(make_run(rows=()).path)
    assert [(p.kind, p.message) for p in verdict.problems] == [
        ("nothing", "none of 3 rows is committed; there is nothing to check")
    ]


def rewrite(run: Any, row: int, path: str, block: np.ndarray) -> None:
    """Commit a row again with another block, as a capture with a defect would have written it."""
    unfinish(run.path, row)
    run.writer._committed.discard(row)
    run.writer.write_row(row, {**run.blocks[row], path: block})
    run.writer.finish({})


def test_statistics_find(make_run: Any) -> None:
    whole, reductions = (
        make_run(),
        make_run("none.zarr", states="none", kl=True, ablate="kinds", ablation_parts=("up_proj", "q_proj")),
    )
    ours = "adapters/default/"
    for run, path, value, kind, words in (
        (whole, BASE, np.nan, "nan", "token 7 of the row has a NaN, and 1 more"),
        (whole, BASE, np.inf, "inf", "token 7 of the row has an Inf, and 1 more"),
        (whole, BASE, 0.0, "zero", "token 7 of the row is all zero, and 1 more"),
        (whole, BASE, 3.0, "constant", "token 7 of the row has one value in all features, and 1 more"),
        (whole, f"{ours}factor", np.nan, "nan", "has a NaN"),
        (whole, "tokens/nll", np.nan, "nan", "is NaN though a token stands before it"),
        (whole, "tokens/nll", -0.5, "range", "has a nll outside of [0, inf)"),
        (whole, f"{ours}js", 0.8, "range", "has a js outside of [0, ln 2]"),
        (whole, f"{ours}js", np.inf, "range", "has a js outside of [0, ln 2]"),
        (whole, f"{ours}swallowed", 1.5, "range", "has a share of swallowed features outside of [0, 1]"),
        (reductions, "reductions/base_norm", np.nan, "nan", "has a NaN, and 1 more"),
        (reductions, "reductions/base_norm", -1.0, "range", "has a negative norm"),
        (reductions, "reductions/base_norm", np.inf, "range", "has a negative norm"),
        (reductions, "reductions/effective_width", 0.5, "range", "has a effective width below 1"),
        (reductions, f"{ours}delta_norm", np.nan, "nan", "has a NaN"),
        (reductions, f"{ours}kl", -0.5, "range", "has a negative kl"),
        (reductions, f"{ours}ablation", -0.5, "range", "has a negative ablation"),
    ):
        block = run.blocks[0][path].copy()
        block[[7, 9]] = value
        rewrite(run, 0, path, block)
        assert verify(run.path, level="decode").ok
        (found,) = [p for p in verify(run.path).problems if p.kind == kind]
        assert found.place.startswith(path)
        assert words in found.message
        rewrite(run, 0, path, run.blocks[0][path])
    assert verify(whole.path).ok
    assert verify(reductions.path).ok


def test_what_was_not_measured_and_first_tokens_may_be_nan(make_run: Any) -> None:
    run = make_run(states="none", kl=True, ablate="kinds", ablation_parts=("up_proj",))
    for row, name in ((0, "kl"), (0, "ablation"), (0, "js"), (1, "js"), (0, "swallowed")):
        path = f"adapters/default/{name}"
        rewrite(run, row, path, np.full_like(run.blocks[row][path], np.nan))
    js = run.blocks[2]["adapters/default/js"].copy()
    js[::2] = np.nan
    rewrite(run, 2, "adapters/default/js", js)
    nll = run.blocks[1]["tokens/nll"].copy()
    nll[50] = np.nan  # position 0 of the second sample
    rewrite(run, 1, "tokens/nll", nll)
    assert verify(run.path).ok


def test_a_vector_left_over_from_the_row_before_is_found(make_run: Any) -> None:
    run = make_run()
    block = run.blocks[1][BASE].copy()
    block[700:720] = run.blocks[0][BASE][700:720]
    rewrite(run, 1, BASE, block)
    assert [(p.place, p.kind) for p in verify(run.path).problems] == [(f"{BASE}/c.1.0", "repeated")]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (BASE, np.nan, "row 2 is blank, all NaN"),
        (BASE, 0.0, "row 2 is blank, all zero"),
        (BASE, 3.0, "row 2 is blank, one value in all features of a token"),
        ("adapters/default/factor", np.nan, "row 2 is blank, all NaN"),
    ],
)
def test_a_blank_row_is_one_problem(make_run: Any, path: str, value: float, message: str) -> None:
    run = make_run()
    rewrite(run, 2, path, np.full_like(run.blocks[2][path], value))
    assert [(p.place, p.message) for p in verify(run.path).problems] == [
        (f"{path}/c.2.0", f"'{path}/c.2.0': {message}")
    ]


def test_row_that_repeats_another_is_found(make_run: Any) -> None:
    run = make_run()
    rewrite(run, 1, BASE, run.blocks[0][BASE])
    problems = [p for p in verify(run.path).problems if p.place == "row 1"]
    assert [(p.kind, p.message) for p in problems] == [("repeated", f"row 1 of {BASE!r} equals row 0 byte for byte")]


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_rows_of_nothing_but_zero_and_nan_may_repeat(make_run: Any, share: float) -> None:
    """As where no rounding swallows anything, and some components aren't adapted."""
    run = make_run()
    path = "adapters/default/swallowed"
    for row in range(3):
        block = np.full_like(run.blocks[row][path], share)
        block[:, 0] = np.nan
        rewrite(run, row, path, block)
    assert {p.kind for p in verify(run.path).problems} == (set() if share == 0 else {"repeated"})


def test_unknown_level_and_no_run(make_run: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`level` is 'all'; allowed are"):
        verify(make_run().path, level="all")  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="doesn't exist"):
        verify(tmp_path / "nothing")


def test_rows_lost_by_a_finished_run_are_found(make_run: Any) -> None:
    run = make_run()
    lose_rows(run.path, 1)
    assert [(p.place, p.kind, p.message) for p in verify(run.path).problems] == [
        (
            "row 1",
            "missing",
            "row 1 of a finished run has no digest; it was lost, and the row can't be read without it",
        )
    ]
    assert verify(make_run("part.zarr", rows=(0,)).path).ok


def test_broken_digest_is_a_problem_that_names_its_file(make_run: Any) -> None:
    run = make_run()
    (run.path / "rows/digest/c.0.0").write_bytes(b"garbage that is no chunk")
    (problem,) = verify(run.path).problems
    assert (problem.place, problem.kind) == ("rows/digest", "decode")
    assert "chunk 'rows/digest/c.0.0' is broken" in problem.message


def test_two_rows_of_the_same_tokens_may_be_equal(make_run: Any) -> None:
    """One text repeated: ids and positions are the same, and so is everything that follows from them."""
    run = make_run(token_ids=[i % 1024 for i in range(2148)])
    rewrite(run, 1, BASE, run.blocks[0][BASE])
    assert verify(run.path).ok


def equal_tokens(run: Any, components: tuple[int, ...]) -> list[str]:
    """Give tokens 10 and 11 one vector in these components; returns where `verify` finds repeated ones."""
    for i in components:
        path = f"states/model.layers.{i}.mlp.up_proj/base"
        run.blocks[0][path] = run.blocks[0][path].copy()
        run.blocks[0][path][11] = run.blocks[0][path][10]
    rewrite(run, 0, BASE, run.blocks[0][BASE])
    problems = verify(run.path).problems
    assert {p.kind for p in problems} <= {"repeated"}
    return [p.place.split(".")[2] for p in problems]


@pytest.mark.parametrize(
    ("components", "found"),
    [
        ((0,), ["0"]),
        ((1,), ["1"]),
        ((2,), ["2"]),
        ((1, 2), ["1", "2"]),
        ((0, 2), ["0", "2"]),
        ((0, 1), []),  # two ids share an embedding; their vectors differ once attention has mixed in earlier tokens
        ((0, 1, 2), []),
    ],
)
def test_equal_vectors_are_stale_only_where_others_tell_the_tokens_apart(
    make_run: Any, components: tuple[int, ...], found: list[str]
) -> None:
    assert equal_tokens(make_run(), components) == found


def test_equal_vectors_under_one_id_are_legitimate(make_run: Any) -> None:
    assert equal_tokens(make_run(token_ids=[7] * 2148), (1,)) == []


def test_codec_with_other_settings_is_found_at_every_level(make_run: Any) -> None:
    run = make_run()
    for file in (run.path / "zarr.json", run.path / BASE / "zarr.json"):
        file.write_text(file.read_text().replace('"clevel": 1', '"clevel": 9'))
    problems = verify(run.path, level="digests").problems
    assert ("codec", BASE) in [(p.kind, p.place) for p in problems]
    assert "has the settings" in "".join(problem.message for problem in problems)
    for codec in ("zstd", "lz4", "raw"):
        assert verify(make_run(f"{codec}.zarr", codec=codec).path).ok


def test_broken_token_table_is_named_and_nothing_is_compared(make_run: Any) -> None:
    run = make_run()
    damage(run.path / "tokens/token_id/c.0", "flip")
    rewrite(run, 1, BASE, run.blocks[0][BASE])
    assert [(p.place, p.kind) for p in verify(run.path).problems] == [
        ("tokens/token_id/c.0", "decode"),
        ("tables", "digest"),
    ]
