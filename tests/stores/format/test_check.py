import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from lorascope.stores import StoreError, open_run, resume_run, verify
from lorascope.stores.format.check import MAX_PROBLEMS

from ..on_disk import edit_root

F32, BF16, F16 = (f"model.layers.{i}.mlp.up_proj" for i in range(3))


def edit_array(root: Path, path: str, **fields: Any) -> None:
    edit_root(root, consolidated=False)
    file = root / path / "zarr.json"
    content = json.loads(file.read_text())
    content["attributes"].update(fields.pop("attributes", {}))
    file.write_text(json.dumps({**content, **fields}))


def refused(root: Path, words: str) -> None:
    """Opening refuses the run in these words, and verifying reports them instead of failing."""
    with pytest.raises(StoreError, match=f"isn't laid out as a run: .*{words}.*`lorascope verify` lists what is wrong"):
        open_run(root)
    verdict = verify(root)
    assert not verdict.ok
    assert verdict.n_committed == 0
    assert re.search(words, verdict.problems[0].message)


@contextmanager
def as_it_was(root: Path) -> Iterator[None]:
    """Afterwards the metadata, which alone are changed in between, are those of before."""
    before = {file: file.read_bytes() for file in root.rglob("zarr.json")}
    yield
    for file, content in before.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


@pytest.mark.parametrize("stream", ["adapted", "base", "pair"])
@pytest.mark.parametrize(
    "options",
    [
        {"biased": (True, False, False)},
        {"states": "none"},
        {"states": "sample", "state_rows": (True, False, True), "kl": True, "weight": [2.0] * 2148},
    ],
    ids=["all", "none", "sample"],
)
def test_every_kind_of_run_is_as_it_should_be(make_run: Any, stream: str, options: dict[str, Any]) -> None:
    run = make_run(stream=stream, **options)
    assert verify(run.path).ok
    edit_root(run.path, consolidated=False)
    assert open_run(run.path).n_rows == 3
    assert verify(run.path).ok


def test_what_early_writers_did_not_know_may_be_absent(make_run: Any) -> None:
    run = make_run(states="none", kl=True, weight=[2.0] * 2148)
    edit_root(run.path, consolidated=False)
    absent = [f"adapters/default/{name}" for name in ("delta_source", "swallowed", "delta_norm", "kl")]
    for path in ("tokens/weight", "tokens/text", *absent, "reductions"):
        shutil.rmtree(run.path / path)
        assert open_run(run.path).n_rows == 3, path
    assert "text" not in open_run(run.path).tokens


def test_ablation_needs_its_parts_and_their_kind(make_run: Any) -> None:
    root = make_run(ablate="layers", ablation_parts=("0", "1", "2", "-1")).path
    assert verify(root).ok
    part, values = (f"adapters/default/{name}" for name in ("ablation_part", "ablation"))
    with as_it_was(root):
        edit_array(root, values, attributes={"parts": "heads"})
        refused(root, "`ablate` is 'heads' of 1 adapters; allowed are")
    with as_it_was(root):
        edit_array(root, part, shape=[3])
        refused(root, f"`shape` of '{values}' is \\(2148, 4\\); it must be \\(2148, 3\\)")
    with as_it_was(root):
        edit_array(root, part, shape=[2**40])
        refused(root, "`ablation_part` announces 1099511627776 entries; a run has at most 16384")
    edit_root(root, consolidated=False)
    shutil.rmtree(root / part)
    refused(root, f"array '{part}' is missing")


def test_replies_must_be_whole_and_few_enough(make_run: Any) -> None:
    root = make_run(n_tokens=1100, n_replies=8).path
    assert verify(root).ok
    with pytest.raises(StoreError, match="holds no replies; capture it again with `--replies`"):
        open_run(make_run("without.zarr", n_tokens=1100).path).replies()
    with as_it_was(root):
        edit_array(root, "adapters/default/replies/text", shape=[65_537])
        refused(root, "`n_replies` is 65537; an adapter has at most 65536 replies")
    with as_it_was(root):
        edit_array(root, "adapters/default/replies/text", shape=[9])
        refused(root, r"`shape` of 'adapters/default/replies/prompt' is \(8,\); it must be \(9,\)")
    edit_root(root, consolidated=False)
    shutil.rmtree(root / "adapters/default/replies/scale")
    refused(root, "array 'adapters/default/replies/scale' is missing")


def test_importance_needs_a_gradient_of_every_pass_and_direction(make_run: Any) -> None:
    root = make_run(importance=(6, 9), states="none").path
    assert verify(root).ok
    gradient, sample = (f"adapters/default/importance/{name}" for name in ("gradient", "sample"))
    grid = {"name": "regular", "configuration": {"chunk_shape": [6]}}
    for fields in ({"shape": [0, 9]}, {"shape": [6], "chunk_grid": grid, "dimension_names": ["pass"]}):
        with as_it_was(root):
            edit_array(root, gradient, **fields)
            refused(root, f"`shape` of '{gradient}' is .*; it must be \\(pass, direction\\), each at least 1")
    with as_it_was(root):
        edit_array(root, sample, shape=[7])
        refused(root, f"`shape` of '{sample}' is \\(7,\\); it must be \\(6,\\)")
    shutil.rmtree(root / gradient)  # the rest is nothing that is known
    edit_root(root, consolidated=False)
    with pytest.raises(StoreError, match="holds no importance; capture it again with `--importance 4`"):
        open_run(root).importance()


def test_nulls_need_an_adapter_and_a_null_in_every_sample(make_run: Any) -> None:
    root = make_run(n_variants=3, states="none").path
    assert verify(root).ok
    kl, miub = (f"adapters/default/nulls/{name}" for name in ("kl", "miub"))
    grid = {"name": "regular", "configuration": {"chunk_shape": [2]}}
    for fields in ({"shape": [2, 1]}, {"shape": [2], "chunk_grid": grid, "dimension_names": ["sample"]}):
        with as_it_was(root):
            edit_array(root, kl, **fields)
            refused(root, f"`shape` of '{kl}' is .*; it must be \\(sample, variant\\), with at least 2 variants")
    with as_it_was(root):
        edit_array(root, miub, shape=[2, 4])
        refused(root, f"`shape` of '{miub}' is \\(2, 4\\); it must be \\(2, 3\\)")
    with as_it_was(root):
        shutil.rmtree(root / miub)
        edit_root(root, consolidated=False)
        refused(root, f"array '{miub}' is missing")


def test_wrong_source_of_delta_is_named(make_run: Any) -> None:
    run = make_run()
    array = zarr.open_array(run.path / "adapters/default/delta_source", mode="r+")
    array[0] = "guess"
    refused(run.path, "`delta_source` of adapter 'default' must give one of")


def test_wrong_attribute_is_named(make_run: Any) -> None:
    root = make_run().path
    for name, value, words in (
        ("stream", "both", "attribute `stream` is 'both'; it must be one of"),
        ("states", 3, "attribute `states` is 3; it must be one of"),
        ("n_tokens", "2148", "attribute `n_tokens` is '2148'; it must be a whole number above 0"),
        ("n_tokens", 0, "attribute `n_tokens` is 0; it must be"),
        ("n_tokens", True, "attribute `n_tokens` is True; it must be"),
        ("n_rows", 4, "attribute `n_rows` is 4; it must be 3"),
        ("adapters", "default", "attribute `adapters` is 'default'; it must be a list of names"),
        ("adapters", [], r"attribute `adapters` is \[\]; it must be a list of names, 1 to 256"),
        ("adapters", ["x"] * 257, "attribute `adapters` is .*; it must be a list of names, 1 to 256"),
        ("adapters", ["../x"], "adapter name '../x' can't be kept in a store"),
        ("adapters", ["default", "default"], "adapter names must differ"),
        ("finished", "yes", "attribute `finished` is 'yes'; it must be true or false"),
        ("provenance", -1, "attribute `provenance` is -1; it must be an object"),
        ("provenance", {"settings": [1]}, r"attribute `provenance.settings` is \[1\]; it must be an object"),
        (
            "provenance",
            {"copied": {"how": "pull"}},
            "attribute `provenance.copied` is .*; it must be a list of objects",
        ),
        ("provenance", {"preflight": [1]}, r"attribute `provenance.preflight\[0\]` is 1; it must be an object"),
        ("measured", -1, "attribute `measured` is -1; it must be an object"),
        ("static_digest", 3, "attribute `static_digest` is 3; it must be a digest in hexadecimal"),
        ("stream", None, "attribute `stream` is missing; it must be one of"),
        ("n_tokens", None, "attribute `n_tokens` is missing"),
        ("finished", None, "attribute `finished` is missing"),
    ):
        with as_it_was(root):
            edit_root(root, consolidated=False, **{name: value})
            refused(root, words)


def test_version_is_a_whole_number(make_run: Any) -> None:
    root = make_run().path
    for version in (True, 1.0, "1"):
        edit_root(root, consolidated=False, format_version=version)
        for read in (open_run, verify):
            with pytest.raises(StoreError, match=f"has format version {version!r}"):
                read(root)


def test_absurd_length_is_found_without_being_allocated(make_run: Any) -> None:
    run = make_run()
    edit_root(run.path, consolidated=False, n_tokens=10**15, n_rows=-(-(10**15) // 1024))
    refused(run.path, r"`shape` of 'rows/commit' is \(3, 32\)")


def test_missing_array_or_group_is_named(make_run: Any) -> None:
    root = make_run().path
    arrays = ("rows/digest", "samples/ce", "tokens/nll", "components/path", f"states/{BF16}/base")
    ours = [f"adapters/default/{one}" for one in ("rank", "js", "factor", f"lora_B/{F32}", f"delta/{F16}")]
    edit_root(root, consolidated=False)
    for path in (*arrays, *ours, "components", "states", "adapters"):
        shutil.move(root / path, root.parent / "away")
        with pytest.raises(StoreError, match=f"array '{path}.*is missing"):
            open_run(root)
        assert verify(root).problems[0].kind == "missing"
        shutil.move(root.parent / "away", root / path)


def test_array_that_differs_is_named(make_run: Any) -> None:
    root = make_run().path
    by_slash = {"name": "default", "configuration": {"separator": "/"}}
    for path, change, words in (
        (f"states/{F32}/base", {"shape": [2148, 13]}, r"`shape` of .* is \(2148, 13\); it must be \(2148, 12"),
        ("tokens/position", {"data_type": "int64"}, "`dtype` of 'tokens/position' is 'int64'; it must be 'int32'"),
        ("tokens/role", {"dimension_names": ["x"]}, r"`dims` of 'tokens/role' is \('x',\)"),
        ("tokens/role", {"fill_value": 0}, r"fill value of 'tokens/role' is np.int8\(0\); it must be -1"),
        ("tokens/nll", {"attributes": {"written": "once"}}, "`written` .* is 'once'; it must be 'by row'"),
        (f"states/{BF16}/base", {"attributes": {"dtype_logical": "x"}}, "is 'x'; it must be 'bfloat16'"),
        (
            "tokens/nll",
            chunks(512),
            r"chunks of .* are \(512,\); only the first axis may be cut, rows by 1024",
        ),
        (f"states/{F32}/base", chunks(1024, 6), r"chunks of 'states/.*' are \(1024, 6\)"),
        (f"states/{F32}/base", chunks(1024, 24), r"chunks of 'states/.*' are \(1024, 24\)"),
        ("tokens/nll", {"chunk_key_encoding": by_slash}, "`separator` of 'tokens/nll' is '/'"),
    ):
        with as_it_was(root):
            edit_array(root, path, **change)
            with pytest.raises(StoreError, match=words):
                open_run(root)
            assert {p.place for p in verify(root).problems} == {path}


def chunks(*shape: int) -> dict[str, Any]:
    return {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shape}}}


def test_every_difference_is_listed_and_the_count_said(make_run: Any) -> None:
    run = make_run()
    for path in ("tokens/role", "tokens/nll"):
        edit_array(run.path, path, dimension_names=["x"])
    assert [p.place for p in verify(run.path).problems] == ["tokens/role", "tokens/nll"]
    with pytest.raises(StoreError, match=r"\(and 1 more such\)"):
        open_run(run.path)


@pytest.mark.parametrize("key", ["factor_start", "rank"])
def test_columns_of_the_factor_must_follow_each_other(make_run: Any, key: str) -> None:
    run = make_run()
    array = zarr.open_array(run.path / f"adapters/default/{key}", mode="r+")
    array[1] = -1 if key == "rank" else 1
    words = "entry 1 of 'adapters/default/rank' is -1" if key == "rank" else "`rank` and `factor_start` of adapter 'de"
    refused(run.path, words)


def test_metadata_that_can_not_be_read(make_run: Any) -> None:
    run = make_run()
    edit_root(run.path, consolidated=False)
    (run.path / "tokens/role/zarr.json").write_text('{"zarr_format": 3, "node')
    with pytest.raises(StoreError, match="can't be read"):
        open_run(run.path)
    assert [p.kind for p in verify(run.path).problems] == ["unreadable"]


def test_chunks_lost_while_open_are_named(make_run: Any) -> None:
    run = make_run()
    opened = open_run(run.path)
    for path in (f"states/{F32}/base", "samples/ce"):
        shutil.rmtree(run.path / path)
    with pytest.raises(StoreError, match=rf"chunk 'states/{F32}/base/c\.\d\.0' is missing; run `lorascope verify`"):
        opened.base(F32).values
    with pytest.raises(StoreError, match="chunk 'samples/ce/c.0' is missing"):
        opened.samples
    with pytest.raises(StoreError, match="'samples/other' is missing from .*run `lorascope verify`"):
        opened.read_static("samples/other")


def test_plain_uint16_is_never_read_as_numbers(make_run: Any) -> None:
    run = make_run()
    opened = open_run(run.path)
    path = f"states/{BF16}/base"
    file = run.path / path / "zarr.json"
    content = json.loads(file.read_text())
    del content["attributes"]["dtype_logical"]
    file.write_text(json.dumps(content))
    edit_root(run.path, consolidated=False)
    without = {key: value for key, value in opened.arrays[path].attributes.items() if key != "dtype_logical"}
    opened.arrays = {**opened.arrays, path: replace(opened.arrays[path], attributes=without)}
    with pytest.raises(StoreError, match="can't be read as numbers: `dtype_logical` is 'uint16'; allowed are"):
        opened.base(BF16)
    with pytest.raises(StoreError, match="`dtype_logical` of .* is None; it must be 'bfloat16'"):
        open_run(run.path)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("adapters/other/js", r"is of an adapter that `adapters` doesn't list: \['default'\]"),
        ("adapters/default", "is of an adapter that `adapters` doesn't list"),
        ("states/model.layers.7.mlp/base", "is of a component that isn't in `components/path`"),
        (f"states/{F32}", "is of a component that isn't in `components/path`"),
        ("adapters/default/lora_B/model.layers.7.mlp", "is of a component that isn't in `components/path`"),
        ("adapters/default/lora_bias/other", "is of a component that isn't in `components/path`"),
        ("adapters/default/delta/other", "is of a component that isn't in `components/path`"),
        ("../outside/js", "names no part of a run; names are letters"),
        ("/etc/passwd", "names no part of a run"),
    ],
)
@pytest.mark.parametrize("consolidated", [True, False])
def test_array_of_what_is_not_listed_is_refused(make_run: Any, path: str, words: str, consolidated: bool) -> None:
    run = make_run(n_tokens=1100)
    outside = path.startswith(("..", "/"))
    if not outside and path not in ("adapters/default", f"states/{F32}"):
        shutil.copytree(run.path / "adapters/default/js", run.path / path)
    elif not consolidated:
        return  # a folder has no such place, or holds a group already
    content = json.loads((run.path / "zarr.json").read_text())
    nodes = content["consolidated_metadata"]["metadata"]
    nodes[path] = nodes["adapters/default/js"]
    (run.path / "zarr.json").write_text(json.dumps(content))
    edit_root(run.path, consolidated=consolidated)
    with pytest.raises(StoreError, match=words):
        open_run(run.path)
    assert re.search(words, verify(run.path).problems[0].message)


def add_array(run: Any, path: str, **fields: Any) -> None:
    """An array as a newer writer might add it: its metadata are those of `js`, and its chunks too."""
    shutil.copytree(run.path / "adapters/default/js", run.path / path)
    edit_array(run.path, path, **fields)


@pytest.mark.parametrize("path", ["adapters/default/newer", "reductions/newer", "tokens/newer"])
def test_reductions_of_newer_writers_may_be_there(make_run: Any, path: str) -> None:
    run = make_run(n_tokens=1100, rows=())
    add_array(run, path)
    with resume_run(run.path) as writer:
        for row in range(2):
            writer.write_row(row, {**run.blocks[row], path: np.full_like(run.blocks[row]["adapters/default/js"], 0.25)})
        writer.finish({})
    assert verify(run.path).ok
    assert open_run(run.path).js().shape == (1100, 3)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"shape": [10**12, 3]}, r"`shape` of .* is \(1000000000000, 3\); its first axis must be its entries'"),
        ({"shape": []} | {"dimension_names": None}, r"`shape` of .* is \(\)|can't be read"),
        ({"data_type": "complex64", "fill_value": [0.0, 0.0]}, "`dtype` of .* is complex64; it must be a number"),
        ({"codecs": [{"name": "bytes", "configuration": {"endian": "little"}}]}, "can't be decoded: its codecs are"),
        ({"attributes": {"written": "once"}, "shape": [10**12, 3]}, r"announces 10+ entries, but has 2 of \d+ chunks"),
        (
            {"shape": [1100, 2**21]}
            | {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1024, 2**21]}}},
            "none may hold 2 GiB",
        ),
    ],
)
def test_array_of_a_newer_writer_that_can_not_be_read_safely_is_refused(make_run: Any, fields: Any, words: str) -> None:
    run = make_run(n_tokens=1100)
    add_array(run, "adapters/default/newer", **fields)
    with pytest.raises(StoreError, match=words):
        open_run(run.path)


def test_so_many_arrays_are_missing_that_they_are_not_all_listed(make_run: Any) -> None:
    run = make_run(n_tokens=1100)
    edit_root(run.path, consolidated=False, adapters=["default", *(f"a{i}" for i in range(255))])
    assert len(verify(run.path).problems) <= MAX_PROBLEMS + 300
