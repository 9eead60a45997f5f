import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs.blosc  # type: ignore[import-untyped]
import numpy as np
import pytest
import zarr

from lorascope.stores import Run, StoreError, open_run, run_state, verify
from lorascope.stores.copying.copy_rows import select_slice
from lorascope.stores.copying.pull import pull
from lorascope.stores.places.folder import FolderPlace

from ..on_disk import edit_root

COMPONENTS = ("model.layers.0.mlp.down_proj", "model.layers.1.mlp.up_proj", "model.layers.1.mlp.down_proj")


def raw(root: Path, path: str) -> np.ndarray:
    return np.asarray(zarr.open_array(root / path, mode="r")[...])


def same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def sound(root: Path) -> Run:
    """Open what was pulled; its bytes and layout are as a capture's."""
    assert [p.message for p in verify(root, level="decode").problems] == []
    run = open_run(root)
    assert run.finished
    return run


@pytest.mark.parametrize(("tokens", "n_chosen"), [("all", 100), ("share:0.1", 10)])
def test_sample_without_captured_tokens_is_taken_as_it_is(make_run: Any, tokens: str, n_chosen: int) -> None:
    run = make_run(n_tokens=100, columns={"token_start": [0, 0], "token_stop": [0, 100], "length": [1, 100]})
    zarr.open_array(run.path / "tokens/sample", mode="r+")[...] = 1
    part = select_slice(open_run(run.path), component=None, samples=None, tokens=tokens, seed=0, adapters=None)
    assert (part.samples.tolist(), part.n_tokens.tolist()) == ([0, 1], [0, n_chosen])
    assert part.weight.tolist() == [100 / n_chosen] * n_chosen


@pytest.mark.parametrize(
    ("starts", "stops"), [([0, 40], [50, 100]), ([0, 50], [50, 5000]), ([5, 50], [50, 100]), ([0, 60], [60, -40])]
)
def test_samples_that_do_not_follow_each_other_are_refused(make_run: Any, starts: list[int], stops: list[int]) -> None:
    run = make_run(n_tokens=100, columns={"token_start": starts, "token_stop": stops})
    with pytest.raises(StoreError, match="don't follow each other along .* 100 tokens|'samples/token_stop' is -40"):
        select_slice(open_run(run.path), component=None, samples=None, tokens="all", seed=0, adapters=None)


def test_fewer_components_keep_their_bits(many_rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "part.zarr"
    pulled = pull(many_rows, out, component=["*.layers.1.*", COMPONENTS[0]])
    source = open_run(many_rows)
    assert sound(out).component_paths == COMPONENTS
    kept = [source.component_paths.index(path) for path in COMPONENTS]
    for path in COMPONENTS:
        assert same_bits(raw(out, f"states/{path}/base"), raw(many_rows, f"states/{path}/base"))
        np.testing.assert_array_equal(pulled.delta(path).values, source.delta(path).values)
    for name in ("js", "swallowed"):
        path = f"adapters/default/{name}"
        assert same_bits(raw(out, path), np.ascontiguousarray(raw(many_rows, path)[:, kept]))
    assert raw(out, "adapters/default/factor_start").tolist() == [0, -1, 2]
    for table in ("samples", "choices", "tokens"):
        for column, values in getattr(source, table).items():
            np.testing.assert_array_equal(getattr(pulled, table)[column].values, values.values)
    assert pulled.attributes["provenance"]["copied"][-1]["checked"] == "checksum of every chunk"


@pytest.mark.parametrize(
    ("samples", "ids"),
    [
        (2, ["s0", "s1"]),
        (["s3", "s1"], ["s1", "s3"]),
        (["d/s[24]"], ["s2", "s4"]),
        (["*"], ["s0", "s1", "s2", "s3", "s4"]),
    ],
)
def test_samples_move_together_with_their_tokens(many_rows: Path, tmp_path: Path, samples: Any, ids: list[str]) -> None:
    out = tmp_path / "part.zarr"
    pulled, source = pull(many_rows, out, samples=samples), open_run(many_rows)
    assert sound(out).samples["id"].values.tolist() == ids
    component = source.component_paths[1]
    for index, name in enumerate(ids):
        old = source.samples["id"].values.tolist().index(name)
        ours, theirs = (
            slice(*(int(run.samples[column].values[at]) for column in ("token_start", "token_stop")))
            for run, at in ((pulled, index), (source, old))
        )
        for of in (
            lambda run: run.base(component),
            lambda run: run.delta(component),
            lambda run: run.tokens["token_id"],
        ):
            np.testing.assert_array_equal(of(pulled)[ours].values, of(source)[theirs].values)
        assert set(pulled.tokens["sample"].values[ours].tolist()) == {index}


def test_share_of_tokens_is_seeded_by_sample_and_weighted(many_rows: Path, tmp_path: Path) -> None:
    source = open_run(many_rows)
    pulled = pull(many_rows, tmp_path / "a.zarr", tokens="share:0.05", seed=1)
    alone = pull(many_rows, tmp_path / "b.zarr", tokens="share:0.05", seed=1, samples=["s2"])
    other = pull(many_rows, tmp_path / "c.zarr", tokens="share:0.05", seed=2)
    sound(tmp_path / "a.zarr")
    lengths = (source.samples["token_stop"] - source.samples["token_start"]).values
    kept = (pulled.samples["token_stop"] - pulled.samples["token_start"]).values
    assert kept.tolist() == np.round(lengths * 0.05).tolist()
    weight = pulled.tokens["weight"].values
    np.testing.assert_allclose(np.bincount(pulled.tokens["sample"].values, weight), lengths, rtol=1e-6)
    mine = pulled.tokens["token_id"].values[pulled.tokens["sample"].values == 2]
    assert mine.tolist() == alone.tokens["token_id"].values.tolist()
    assert (np.diff(mine) > 0).all()
    assert mine.tolist() != other.tokens["token_id"].values[other.tokens["sample"].values == 2].tolist()
    # Token ids of this run are places on its token axis.
    places = pulled.tokens["token_id"].values
    component = source.component_paths[0]
    np.testing.assert_array_equal(pulled.base(component).values, source.base(component).values[places])


def test_weights_multiply_down_a_chain_whose_steps_are_kept(many_rows: Path, tmp_path: Path) -> None:
    pull(many_rows, tmp_path / "a.zarr", tokens="share:0.5")
    twice = pull(tmp_path / "a.zarr", tmp_path / "b.zarr", tokens="share:0.1", samples=2)
    sums = np.bincount(twice.tokens["sample"].values, twice.tokens["weight"].values)
    np.testing.assert_allclose(sums, [700, 400], rtol=1e-6)
    first, second = twice.attributes["provenance"]["copied"]
    source = open_run(many_rows)
    assert first["fingerprint"] == source.attributes["fingerprint"]
    assert first["static_digest"] == source.attributes["static_digest"]
    assert (first["source"], first["tokens"]) == (str(many_rows), [1250, 2500])
    assert second["fingerprint"] == open_run(tmp_path / "a.zarr").attributes["fingerprint"]
    assert second["selection"] == {
        "components": None, "samples": 2, "tokens": "share:0.1", "seed": 0, "adapters": None, "codec": "default",
    }  # fmt: skip
    assert len({run.attributes["fingerprint"] for run in (source, open_run(tmp_path / "a.zarr"), twice)}) == 3


def test_a_copy_says_which_tokens_it_is_about(many_rows: Path, tmp_path: Path) -> None:
    first = pull(many_rows, tmp_path / "first.zarr", tokens="first:8").attributes["provenance"]
    assert first["population"] == "the first 8 tokens of each sequence"
    pull(many_rows, tmp_path / "drawn.zarr", tokens="every:3")
    assert "population" not in open_run(tmp_path / "drawn.zarr").attributes["provenance"]
    both = pull(tmp_path / "first.zarr", tmp_path / "both.zarr", tokens="last:700", samples=["s0"])
    assert both.attributes["provenance"]["population"] == (
        "the first 8 tokens of each sequence that are among the last 700 tokens of each sequence"
    )


def test_a_seed_is_part_of_a_copy_only_if_it_draws(many_rows: Path, tmp_path: Path) -> None:
    whole = pull(many_rows, tmp_path / "whole.zarr", tokens="first:8")
    assert whole.attributes["provenance"]["copied"][-1]["selection"]["seed"] is None
    assert pull(many_rows, tmp_path / "whole.zarr", tokens="first:8", seed=3).attributes == whole.attributes
    pull(many_rows, tmp_path / "drawn.zarr", tokens="every:8")
    with pytest.raises(StoreError, match="holds another run"):
        pull(many_rows, tmp_path / "drawn.zarr", tokens="every:8", seed=3)


def test_unfinished_run_gives_its_whole_samples(unfinished: Path, tmp_path: Path) -> None:
    """Rows 0 and 2 are there: sample 0 lies in row 0, 3 spans 1 and 2, and 4 begins in row 2."""
    pulled = pull(unfinished, tmp_path / "part.zarr")
    assert sound(tmp_path / "part.zarr").samples["id"].values.tolist() == ["s0", "s4"]
    (step,) = pulled.attributes["provenance"]["copied"]
    assert (step["finished"], step["samples_incomplete"]) == (False, 3)
    assert pull(unfinished, tmp_path / "two.zarr", samples=2).samples["id"].values.tolist() == ["s0", "s4"]


@pytest.mark.parametrize(
    "options",
    [
        {"stream": "base", "adapters": ("one", "two")},
        {"stream": "pair"},
        {"biased": (True, False, False)},
        {"states": "none", "kl": True, "ablate": "layers", "ablation_parts": ("0", "1", "2")},
    ],
    ids=["base", "pair", "biased", "none"],
)
def test_a_part_of_every_kind_of_run_can_be_pulled(make_run: Any, tmp_path: Path, options: dict[str, Any]) -> None:
    made = make_run(**options)
    part = pull(
        made.path,
        tmp_path / "part.zarr",
        component=["*.1.*", "*.2.*"],
        samples=["ü"],
        adapters=made.spec.adapters[-1].name.split(),
    )
    assert sound(part.path).adapters == (made.spec.adapters[-1].name,)
    assert part.states == made.spec.states
    js = f"adapters/{part.adapters[0]}/js"
    np.testing.assert_array_equal(raw(part.path, js), made.whole(js)[1074:, 1:])
    if "ablate" in options:  # every part was taken out of the whole model, so all stay
        assert part.ablation()["part"].values.tolist() == ["0", "1", "2"]
        np.testing.assert_array_equal(part.ablation().values, made.whole("adapters/default/ablation")[1074:])


def test_replies_are_copied_whole(make_run: Any, tmp_path: Path) -> None:
    run = make_run(adapters=("a", "bb"), stream="base", n_replies=8)
    pulled = pull(run.path, tmp_path / "part", samples=["a"], component=["*.0.*"], adapters=["bb"])
    sound(tmp_path / "part")
    for source in (pulled, open_run(run.path)):
        replies = source.replies("bb")
        assert dict(replies.sizes) == {"reply": 8}
        for name, values in replies.items():
            np.testing.assert_array_equal(values.values, run.weights[f"adapters/bb/replies/{name}"])
    assert replies["loglik_1_5"].attrs["units"] == "nat"
    with pytest.raises(StoreError, match="`adapter` is 'a'; this run holds"):
        pulled.replies("a")


def test_importance_follows_samples_components_and_adapters(make_run: Any, tmp_path: Path) -> None:
    made = make_run(stream="base", adapters=("one", "two"), importance=(6, 9), states="none")
    whole = open_run(made.path).importance("two")
    assert open_run(pull(made.path, tmp_path / "whole.zarr").path).importance("two").identical(whole)
    part = pull(made.path, tmp_path / "part.zarr", component=["*.1.*", "*.2.*"], samples=["ü"], adapters=["two"])
    found = sound(part.path).importance()
    np.testing.assert_array_equal(found["gradient"], whole["gradient"][1::2, 3:])
    for name in ("draw", "n_tokens"):
        np.testing.assert_array_equal(found[name], whole[name][1::2])
    for name in ("direction", "singular_value"):
        np.testing.assert_array_equal(found[name], whole[name][3:])
    assert (found["sample"].values.tolist(), found["component"].values.tolist()) == ([0] * 3, [0] * 3 + [1] * 3)


def test_part_without_a_sample_of_the_importance_has_none(make_run: Any, tmp_path: Path) -> None:
    made = make_run(importance=(1, 9))
    part = pull(made.path, tmp_path / "part.zarr", samples=["ü"])
    assert not [path for path in sound(part.path).arrays if "importance" in path]


def test_part_without_a_sample_of_the_nulls_has_none(make_run: Any, tmp_path: Path) -> None:
    made = make_run(n_variants=3)
    assert "adapters/default/nulls/kl" in sound(pull(made.path, tmp_path / "whole.zarr").path).arrays
    part = pull(made.path, tmp_path / "part.zarr", samples=["ü"])
    assert not [path for path in sound(part.path).arrays if "nulls" in path]


def test_row_keeps_states_only_if_all_its_tokens_had_them(make_run: Any, tmp_path: Path) -> None:
    made = make_run(states="sample", state_rows=(False, True, True))
    source = made.path
    whole = pull(source, tmp_path / "whole.zarr", component=["*.0.*"])
    assert sound(tmp_path / "whole.zarr").state_rows.tolist() == [False, True, True]
    norms = "reductions/base_norm"
    np.testing.assert_array_equal(raw(tmp_path / "whole.zarr", norms), made.whole(norms)[:, :1])
    pulled = pull(source, tmp_path / "part.zarr", samples=["ü"])  # its first 974 tokens lie in row 1
    assert pulled.state_rows.tolist() == [True, True]
    base = f"states/{pulled.component_paths[0]}/base"
    np.testing.assert_array_equal(
        raw(tmp_path / "part.zarr", base), np.concatenate([made.blocks[1][base][50:], made.blocks[2][base]])
    )
    mixed = pull(source, tmp_path / "mixed.zarr", tokens="share:0.5")
    assert sound(tmp_path / "mixed.zarr").state_rows.tolist() == [False, True]
    assert np.isfinite(mixed.reduction("delta_norm").values).all()
    assert whole.states == mixed.states == "sample"


def test_older_run_without_the_newest_arrays(tmp_path: Path) -> None:
    golden = Path(__file__).parents[1] / "golden/v1.zarr"
    pulled = pull(golden, tmp_path / "part.zarr", component=["layers.1.fc"])
    assert pulled.tokens["weight"].values.tolist() == [1, 1, 1, 1]
    np.testing.assert_array_equal(pulled.js().values, open_run(golden).js().values[:, 1:])
    assert np.isnan(raw(tmp_path / "part.zarr", "adapters/default/swallowed")).all()
    sound(tmp_path / "part.zarr")


def test_what_cannot_be_pulled(unfinished: Path, tmp_path: Path) -> None:
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"component": ["q_prj"]}, "'q_prj' fits none of the 4 components of this run"),
        (
            {"component": []},
            r"`component` is \[\]; give a name or pattern of components of this run, several, or nothing for all",
        ),
        ({"adapters": []}, r"`adapters` is \[\]; give a name or pattern of adapters of this run"),
        ({"samples": ""}, "`samples` is ''; give a name or pattern of samples of this run"),
        ({"seed": -1}, "`seed` is -1; give a whole number of at least 0"),
        ({"samples": ["x"]}, "'x' fits none of the"),
        ({"samples": ["s1", "s2"]}, "none of the 2 samples asked for is wholly committed"),
        ({"samples": 0}, "`samples` is 0; give at least 1, or names"),
        ({"adapters": ["other"]}, "'other' fits none of the 1 adapters of this run; the first"),
        ({"tokens": "share:0"}, "`tokens` is 'share:0'; allowed are 'all', .* or 'share:P' with P above 0"),
        ({"tokens": "tool"}, "`tokens` takes none of the tokens of .* that can be chosen"),
        (
            {"tokens": "from:600"},
            r"`tokens` = 'from:600' takes nothing of sample 's4' of 'd' under prompt 'text', whose tokens are at "
            "positions 0 to 439 of 440, counted from 0; give another number or 'all'",
        ),
        ({"codec": "gzip"}, "`codec` is 'gzip'; allowed are 'default', 'zstd', 'lz4', 'raw'"),
    )
    for options, words in cases:
        with pytest.raises(ValueError, match=words):
            pull(unfinished, tmp_path / "out.zarr", **options)
    assert not (tmp_path / "out.zarr").exists()


def test_broken_source_is_refused_and_the_rest_is_taken_up(many_rows: Path, tmp_path: Path) -> None:
    source, out = shutil.copytree(many_rows, tmp_path / "source.zarr"), tmp_path / "out.zarr"
    key = f"states/{COMPONENTS[0]}/base/c.1.0"
    file, first = source / key, out / key.replace("c.1", "c.0")
    sound_bytes = file.read_bytes()
    for content, words in (
        (None, "chunk '.*' is missing; run `lorascope verify`"),
        (sound_bytes[:50] + bytes([sound_bytes[50] ^ 1]) + sound_bytes[51:], "'.*c.1.0' can't be decoded"),
        ((source / key.replace("c.1", "c.0")).read_bytes(), "its digest differs from what was committed"),
    ):
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(StoreError, match=f"row 1 of `.*` can't be copied: {words}"):
            pull(source, out)
        assert open_run(out).committed_rows.tolist() == [True, False, False]
    with pytest.raises(StoreError, match="holds another run; name a new folder, or delete this one first"):
        pull(source, out, samples=3)
    file.write_bytes(sound_bytes)
    written = first.stat().st_mtime_ns
    pulled = pull(source, out)
    assert sound(out).committed_rows.all()
    assert first.stat().st_mtime_ns == written
    assert pull(source, out).attributes == pulled.attributes


@pytest.mark.parametrize("damage", ["weights", "metadata"])
def test_a_source_that_is_not_what_was_written_is_refused_before_the_first_byte(
    many_rows: Path, tmp_path: Path, damage: str
) -> None:
    """Zarr writes the weights again, so that every chunk's own checksum is right."""
    source = shutil.copytree(many_rows, tmp_path / "source.zarr")
    if damage == "weights":
        lora_b = zarr.open_array(next((source / "adapters/default/lora_B").glob("*/zarr.json")).parent, mode="r+")
        lora_b[:] = lora_b[:][::-1]
    else:
        node = source / f"states/{COMPONENTS[0]}/base/zarr.json"
        node.write_bytes(node.read_bytes() + b" ")
    for options in ({}, {"component": COMPONENTS[1]}, {"codec": "raw"}):
        with pytest.raises(StoreError, match="source.zarr` isn't what was written: .*; `lorascope verify` lists all"):
            pull(source, tmp_path / "out.zarr", **options)
    assert not (tmp_path / "out.zarr").exists()


def test_only_what_is_needed_is_read(many_rows: Path, tmp_path: Path) -> None:
    """Without the chunks of all other components a slice of one can be pulled."""
    source = shutil.copytree(many_rows, tmp_path / "source.zarr")
    for path in ("model.layers.0.mlp.up_proj", *COMPONENTS[:2]):
        for file in (source / f"states/{path}/base").glob("c.*"):
            file.unlink()
    assert pull(source, tmp_path / "out.zarr", component=[COMPONENTS[2]]).finished


def test_pull_that_was_torn_begins_again(many_rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    pull(many_rows, out, samples=1)
    edit_root(out, static_digest=None)
    shutil.rmtree(out / "rows/digest")
    shutil.rmtree(out / "states")
    assert pull(many_rows, out, samples=2).samples.sizes["sample"] == 2
    sound(out)


def test_from_and_to_an_object_store(many_rows: Path, s3: Any, tmp_path: Path) -> None:
    remote, back = f"{s3.prefix}/run.zarr", tmp_path / "back.zarr"
    there = pull(many_rows, remote, samples=["s1", "s2"])
    assert there.attributes["provenance"]["copied"][-1]["source"] == str(many_rows)
    assert verify(remote, level="decode").ok
    pull(remote, back, component=[COMPONENTS[1]])
    direct = pull(many_rows, tmp_path / "direct.zarr", samples=["s1", "s2"], component=[COMPONENTS[1]])
    for row in range(2):
        assert bytes(sound(back).digest(row)) == bytes(direct.digest(row))
    root = json.loads((back / "zarr.json").read_text())
    assert root["attributes"]["provenance"]["copied"][-1]["source"] == remote
    assert "secret" not in json.dumps(root)


def test_memory_holds_two_rows_at_most(many_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a row's first token and its commit no third row is begun."""
    from lorascope.stores.copying import copy_rows

    begun: list[int] = []
    empty: Callable[..., Any] = copy_rows._empty_blocks
    monkeypatch.setattr(
        copy_rows, "_empty_blocks", lambda writer, row, run: begun.append(row) or empty(writer, row, run)
    )
    commits: list[tuple[int, int]] = []
    write = copy_rows.RunWriter.write_row

    def write_row(self: Any, row: int, blocks: Any) -> Any:
        commits.append((row, max(begun)))
        return write(self, row, blocks)

    monkeypatch.setattr(copy_rows.RunWriter, "write_row", write_row)
    pull(many_rows, tmp_path / "out.zarr", samples=["s1", "s2", "s3", "s4"])
    assert [row for row, _ in commits] == [0, 1]
    assert all(latest <= row + 1 for row, latest in commits)


def test_no_run_takes_its_own_slice_in(many_rows: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in many_rows.rglob("*")}
    (many_rows.parent / "link").symlink_to(many_rows)
    for out in (many_rows / "sub", many_rows.parent / "x/.." / many_rows.name / "sub", many_rows.parent / "link/sub"):
        with pytest.raises(StoreError, match="lies within the run"):
            pull(many_rows, out)
    assert {file: file.stat().st_mtime_ns for file in many_rows.rglob("*")} == before


def files_of(root: Path) -> dict[str, bytes]:
    """Every file of a run but its weights of tokens, which runs of the fixture lack, and the root's attributes."""
    found = {file.relative_to(root).as_posix(): file.read_bytes() for file in root.rglob("*") if file.is_file()}
    document = json.loads(found.pop("zarr.json"))
    document["consolidated_metadata"]["metadata"].pop("tokens/weight", None)
    found = {key: content for key, content in found.items() if not key.startswith("tokens/weight/")}
    return {**found, "root": json.dumps(document["consolidated_metadata"]).encode()}


@pytest.mark.parametrize(
    "options",
    [
        {"biased": (True, False, False)},
        {"states": "none", "kl": True, "ablate": "layers", "ablation_parts": ("0", "1")},
        {"stream": "pair"},
        {"stream": "base", "adapters": ("one", "two")},
        {"base_ce": [1.0, 2.0], "columns": {"written": [" B.", "ü"], "base_written_correct": [1, 0]}},
    ],
    ids=["all", "none", "pair", "base", "columns"],
)
def test_a_whole_raw_run_becomes_what_a_capture_without_raw_writes(
    make_run: Any, tmp_path: Path, options: dict[str, Any]
) -> None:
    source, direct = make_run("raw.zarr", codec="raw", **options), make_run("zstd.zarr", **options)
    before = files_of(source.path)
    calls: list[tuple[int, int]] = []
    run = pull(source.path, tmp_path / "out.zarr", progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)] * 2  # copied, then read back
    assert files_of(sound(tmp_path / "out.zarr").path) == files_of(direct.path)
    assert files_of(source.path) == before
    (step,) = run.attributes["provenance"]["copied"]
    assert (step["how"], step["source"], step["checked"]) == ("compact", str(source.path), "digest of every row")
    assert run.attributes["fingerprint"] == open_run(source.path).attributes["fingerprint"]
    back = pull(run.path, tmp_path / "back.zarr", codec="raw")
    assert files_of(tmp_path / "back.zarr") == files_of(source.path)
    assert len(back.attributes["provenance"]["copied"]) == 2


def test_what_is_read_back_otherwise_is_not_finished(
    make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = make_run(), tmp_path / "out.zarr"
    write = FolderPlace.write
    key = "states/model.layers.1.mlp.up_proj/base/c.1.0"

    def spoil(self: FolderPlace, name: str, *pieces: bytes | memoryview) -> None:
        write(self, name, *pieces)
        if name == key and self.path == out:
            write(self, name, b"".join(pieces)[:-1])

    monkeypatch.setattr(FolderPlace, "write", spoil)
    with pytest.raises(StoreError, match=f"isn't what was written to it: '{key}' can't be decoded.*; delete it and"):
        pull(source.path, out)
    assert not open_run(out).finished


@pytest.mark.parametrize(
    ("shape", "key", "state"),
    [
        ((1024,), "tokens/nll/c.0", "unfinished"),
        ((1024, 5), "adapters/default/factor/c.0.0", "unfinished"),
        (None, "samples/id/c.0", "torn"),
    ],
    ids=["row", "shard", "text"],
)
def test_what_a_compressor_changed_is_not_written(
    make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...] | None, key: str, state: str
) -> None:
    source, out = make_run("raw.zarr", codec="raw"), tmp_path / "out.zarr"
    compress = numcodecs.blosc.compress

    def faulty(body: Any, *settings: Any) -> Any:
        if shape is None and not isinstance(body, np.ndarray):
            body = bytes(body[:-1]) + bytes([body[-1] ^ 1])
        elif shape == getattr(body, "shape", None):
            body = -body
        return compress(body, *settings)

    with monkeypatch.context() as patch:
        patch.setattr(numcodecs.blosc, "compress", faulty)
        with pytest.raises(
            StoreError, match=f"a chunk of '{key.rpartition('/')[0]}' was compressed to other values than were given"
        ):
            pull(source.path, out)
    assert run_state(out) == state
    assert not (out / key).exists()
    assert not list(out.glob("rows/*/c.*"))
    assert pull(source.path, out).finished


@pytest.mark.parametrize("key", ["zarr.json", "tokens/nll/c.0", "rows/commit/c.0.0", "rows/digest/c.0.0"])
def test_killed_anywhere_it_goes_on_to_the_same_bytes(make_run: Any, tmp_path: Path, key: str) -> None:
    source, direct = make_run("raw.zarr", codec="raw"), make_run("zstd.zarr")
    out, script = tmp_path / "out.zarr", "import sys; from lorascope.stores import pull; pull(*sys.argv[1:])"
    with subprocess.Popen([sys.executable, "-c", script, source.path, out]) as process:
        while not (out / key).exists() and process.poll() is None:
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
    pull(source.path, out)
    assert files_of(out) == files_of(direct.path)
