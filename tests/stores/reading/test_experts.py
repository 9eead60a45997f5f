"""The group `experts` of a run: written, read, checked, resumed and copied; of no weight for readers without it."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from lorascope.stores import ExpertBlock, StoreError, open_run, pull, verify
from lorascope.stores.format import stored_spec
from lorascope.stores.format.layout import ArraySpec, array_specs
from lorascope.stores.format.spec import MAX_EXPERTS, block_path
from lorascope.stores.reading.read import missing_chunks
from lorascope.stores.writing import create

from ..conftest import SmallRun
from ..on_disk import go_on
from .test_harmful import edit

BLOCK = ExpertBlock(path="model.layers.0.mlp", n_experts=5, n_choices=2)
UP, DOWN = (f"{BLOCK.path}.experts.{name}" for name in ("gate_up_proj", "down_proj"))
PLAIN = "model.layers.0.mlp.shared_expert.up_proj"
MEASURES = ("js", "base_norm", "delta_norm")


@pytest.fixture
def make_mixture(make_run: Callable[..., SmallRun]) -> Callable[..., SmallRun]:
    """A run of two parameters of experts, of rank 2 and 3, and of an ordinary layer of their block."""

    def make(name: str = "mixture.zarr", **options: Any) -> SmallRun:
        delta = {"factored": (False, False, False), "delta_source": ("difference", "difference", "branch")}
        return make_run(name, paths=(UP, DOWN, PLAIN), **{"experts": (BLOCK,), **delta, **options})

    return make


def expert_arrays(path: Path) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in open_run(path).arrays.items() if name.startswith("experts/")}


@pytest.mark.parametrize("states", ["all", "none"])
@pytest.mark.parametrize("stream", ["adapted", "pair"])
def test_arrays_are_those_of_the_specification(make_mixture: Callable[..., SmallRun], stream: str, states: str) -> None:
    path = make_mixture(stream=stream, states=states, n_tokens=30).path
    routing = ["expert", "weight"] + ["base_expert", "base_weight"] * (stream == "pair")
    expected = {f"experts/{BLOCK.path}/{name}": (30, 2) for name in routing}
    expected |= {f"experts/{component}/{name}": (30, 2) for component in (UP, DOWN) for name in MEASURES}
    if states == "all":
        expected |= {f"experts/{UP}/z": (30, 2, 2), f"experts/{DOWN}/z": (30, 2, 3)}
    assert expert_arrays(path) == expected
    assert open_run(path).attributes["optional_groups"] == ["experts"]
    assert missing_chunks(path) == []
    assert verify(path).ok


@pytest.mark.parametrize("stream", ["adapted", "pair"])
@pytest.mark.parametrize("applied_to", ["output", "input"])
def test_what_was_written_is_read(make_mixture: Callable[..., SmallRun], stream: str, applied_to: Any) -> None:
    made = make_mixture(stream=stream, experts=(dataclasses.replace(BLOCK, applied_to=applied_to),))
    run = open_run(made.path)
    for component, rank in ((UP, 2), (DOWN, 3)):
        experts = run.experts(component)
        assert experts.attrs == {"n_experts": 5, "applied_to": applied_to}
        assert dict(experts.sizes) == {"token": 2148, "choice": 2, "rank": rank}
        assert all(array.chunks is not None for array in experts.values())
        routing = ("expert", "weight") + ("base_expert", "base_weight") * (stream == "pair")
        folders = dict.fromkeys(routing, BLOCK.path) | dict.fromkeys((*MEASURES, "z"), component)
        assert set(experts) == folders.keys()
        for name, folder in folders.items():
            np.testing.assert_array_equal(experts[name].values, made.whole(f"experts/{folder}/{name}"))
        assert experts["expert"].dtype == np.int32
        xr.testing.assert_equal(experts.isel(token=slice(1074, None)).compute(), run.experts(component, sample="ü"))
    tree = xr.open_datatree(made.path, engine="zarr", chunks={})
    np.testing.assert_array_equal(tree[f"experts/{UP}/z"].values, run.experts(UP)["z"].values)


def test_what_is_not_committed_or_has_no_states_is_missing(make_mixture: Callable[..., SmallRun]) -> None:
    made = make_mixture(states="sample", state_rows=(True, False, True), rows=(0, 1))
    experts = open_run(made.path).experts(DOWN)
    assert (experts["expert"].values[2048:] == -1).all()
    assert (experts["expert"].values[:2048] >= 0).all()
    assert np.isnan(experts["js"].values[2048:]).all()
    assert np.isfinite(experts["js"].values[:2048]).all()
    assert np.isnan(experts["z"].values[1024:]).all()
    np.testing.assert_array_equal(experts["z"].values[:1024], made.blocks[0][f"experts/{DOWN}/z"])


def test_killed_between_rows_it_goes_on(make_mixture: Callable[..., SmallRun]) -> None:
    whole, part = make_mixture(), make_mixture("part.zarr", rows=(1,))
    go_on(part.path, part)
    digests = ("static_digest", "rows_digest", "metadata_digest")
    assert [open_run(part.path).attributes[name] for name in digests] == [
        open_run(whole.path).attributes[name] for name in digests
    ]


def test_copy_has_the_blocks_of_its_components(make_mixture: Callable[..., SmallRun], tmp_path: Path) -> None:
    source = open_run(make_mixture().path)
    whole = pull(source.path, tmp_path / "whole.zarr")
    assert expert_arrays(whole.path) == expert_arrays(source.path)
    xr.testing.assert_equal(whole.experts(UP).compute(), source.experts(UP).compute())
    assert whole.attributes["fingerprint"] == source.attributes["fingerprint"]
    one = pull(source.path, tmp_path / "one.zarr", component=DOWN, samples="ü")
    assert {path.split("/")[1] for path in expert_arrays(one.path)} == {BLOCK.path, DOWN}
    xr.testing.assert_equal(one.experts(DOWN).compute(), source.experts(DOWN, sample="ü").compute())
    other = pull(source.path, tmp_path / "other.zarr", component=PLAIN)
    assert expert_arrays(other.path) == {}
    assert "optional_groups" not in other.attributes
    for copy in (whole, one, other):
        assert verify(copy.path).ok
        assert "omitted" not in copy.attributes["provenance"]["copied"][-1]


def test_one_component_is_verified_with_its_blocks_routing(make_mixture: Callable[..., SmallRun]) -> None:
    path = make_mixture(n_tokens=30).path
    for key in ("z/c.0.0.0", "js/c.0.0"):
        (path / f"experts/{UP}/{key}").unlink()
    assert verify(path, component=DOWN).ok
    assert {problem.place for problem in verify(path, component=UP).problems} >= {f"experts/{UP}/js/c.0.0"}
    (path / f"experts/{BLOCK.path}/weight/c.0.0").unlink()
    assert {problem.kind for problem in verify(path, component=PLAIN).problems} == {"missing"}


def test_reader_that_does_not_know_the_group_passes_it_by(
    make_mixture: Callable[..., SmallRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_blocks(arrays: Any) -> Iterator[ExpertBlock]:
        return iter(())

    path = make_mixture().path
    monkeypatch.setattr(stored_spec, "_expert_blocks", without_blocks)
    run = open_run(path)
    assert run.base(UP).shape == (2148, 12)
    assert verify(path).ok
    copy = pull(path, tmp_path / "copy.zarr")
    assert copy.attributes["provenance"]["copied"][-1]["omitted"] == ["experts"]
    assert expert_arrays(copy.path) == {}


@pytest.mark.parametrize("name", ["expert", "base_expert"])
@pytest.mark.parametrize("index", [5, -1])
def test_experts_that_the_block_has_not_are_refused(
    make_mixture: Callable[..., SmallRun], name: str, index: int
) -> None:
    made = make_mixture(stream="pair", n_tokens=30, rows=())
    made.blocks[0][f"experts/{BLOCK.path}/{name}"][7, 1] = index
    go_on(made.path, made)
    words = rf"entry 7 of 'experts/{BLOCK.path}/{name}' is \[.* {index}\]; allowed are 0 to 4"
    with pytest.raises(StoreError, match=words):
        open_run(made.path).experts(UP)[name].values
    assert [problem.kind for problem in verify(made.path, level="decode").problems] == ["range"]


@pytest.mark.parametrize("value", [0, MAX_EXPERTS + 1, 1, 2.5, "5", None, True])
def test_impossible_numbers_of_experts_are_refused(make_mixture: Callable[..., SmallRun], value: Any) -> None:
    path = make_mixture(n_tokens=30).path
    edit(
        path,
        lambda at, node: node["attributes"].update(n_experts=value) if at == f"experts/{BLOCK.path}/expert" else None,
    )
    name, most = ("n_choices", 1) if value == 1 and value is not True else ("n_experts", MAX_EXPERTS)
    with pytest.raises(StoreError, match=rf"`{name}` of block '{BLOCK.path}' is .*; allowed are 1 to {most}"):
        open_run(path)
    assert not verify(path).ok


@pytest.mark.parametrize("blocks", [(), (BLOCK,)])
def test_attributes_of_an_unknown_array_in_the_group_mean_nothing(
    make_mixture: Callable[..., SmallRun], monkeypatch: pytest.MonkeyPatch, blocks: tuple[ExpertBlock, ...]
) -> None:
    stray = ArraySpec(
        path=f"experts/{BLOCK.path}/base_expert", shape=(30, 2), chunks=(1024, 2), dtype="int32", fill=-1,
        dims=("token", "choice"), by_row=True, attributes={"n_experts": "all"},
    )  # fmt: skip
    monkeypatch.setattr(create, "array_specs", lambda spec: [*array_specs(spec), stray])
    run = open_run(make_mixture(n_tokens=30, experts=blocks).path)
    assert stray.path in run.arrays
    assert run.base(UP).shape == (30, 12)
    if blocks:
        assert "z" in run.experts(UP)


def test_ordinary_components_have_no_experts(make_mixture: Callable[..., SmallRun]) -> None:
    run = open_run(make_mixture(n_tokens=30).path)
    with pytest.raises(StoreError, match=f"mixture.zarr' holds no routing of '{PLAIN}', which is no parameter"):
        run.experts(PLAIN)
    with pytest.raises(StoreError, match=r"no component .* did you mean"):
        run.experts(f"{UP}s")


@pytest.mark.parametrize(
    ("component", "block"),
    [
        (UP, BLOCK.path),
        ("layers.1.feed_forward.experts.w", "layers.1.feed_forward"),
        (PLAIN, None),
        ("layers.0.mlp.experts.3.up_proj", None),
        ("layers.0.mlp.shared_experts.up_proj", None),
        ("experts.up_proj", None),
    ],
)
def test_block_of_a_component(component: str, block: str | None) -> None:
    assert block_path(component) == block


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"path": "../up"}, "block name '../up' can't be kept in a store"),
        ({"n_experts": 0}, "`n_experts` of block 'model.layers.0.mlp' is 0; allowed are 1 to 32767"),
        ({"n_choices": 6}, "`n_choices` of block 'model.layers.0.mlp' is 6; allowed are 1 to 5"),
        ({"applied_to": "both"}, "`applied_to` of block 'model.layers.0.mlp' is 'both'; allowed: 'output', 'input'"),
    ],
)
def test_impossible_blocks_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(BLOCK, **change)


def test_blocks_go_with_one_adapter_each_once(make_mixture: Callable[..., SmallRun]) -> None:
    spec = make_mixture(n_tokens=30).spec
    adapters = tuple(dataclasses.replace(spec.adapters[0], name=name) for name in "ab")
    with pytest.raises(ValueError, match="`experts` goes with one adapter, not 2"):
        dataclasses.replace(spec, adapters=adapters)
    with pytest.raises(ValueError, match=r"block names must differ; \['model.layers.0.mlp'\] stand twice"):
        dataclasses.replace(spec, experts=(BLOCK, BLOCK))
