import dataclasses

import pytest

from lorascope.stores import Adapter, Component, RunSpec
from lorascope.stores.format.layout import array_specs, is_factor_smaller, is_kept_with_states

COMPONENT = Component(
    path="model.layers.0.q_proj", kind="q_proj", layer=0, d_in=8, d_out=16, dtype="float32", stored_dtype="float32"
)
ADAPTER = Adapter(name="default", rank=(4,), scaling=(2.0,), factored=(True,))
SPEC = RunSpec(stream="adapted", components=(COMPONENT,), adapters=(ADAPTER,), n_tokens=1025, n_samples=3, n_choices=0)


def paths(spec: RunSpec) -> set[str]:
    return {entry.path for entry in array_specs(spec)}


def test_factor_form_keeps_factor_and_weight_and_no_delta() -> None:
    assert SPEC.n_rows == 2  # the last one short
    found = {p for p in paths(SPEC) if p.startswith(("adapters", "states"))}
    columns = ("rank", "scaling", "factor_start", "delta_source", "js", "swallowed", "factor")
    ours = {f"adapters/default/{name}" for name in (*columns, "lora_B/model.layers.0.q_proj")}
    assert found == ours | {"states/model.layers.0.q_proj/base"}


def test_delta_form_keeps_delta_alone() -> None:
    spec = dataclasses.replace(SPEC, adapters=(dataclasses.replace(ADAPTER, factored=(False,)),))
    assert "adapters/default/delta/model.layers.0.q_proj" in paths(spec)
    assert not any(("factor" in p and "factor_start" not in p) or "lora_B" in p for p in paths(spec))
    left_alone = dataclasses.replace(SPEC, adapters=(dataclasses.replace(ADAPTER, rank=(0,)),))
    assert not any(p.startswith(("adapters/default/lora_B", "adapters/default/delta/")) for p in paths(left_alone))


def test_pair_keeps_the_adapted_run_and_no_states_leave_reductions() -> None:
    assert "states/model.layers.0.q_proj/adapted" in paths(dataclasses.replace(SPEC, stream="pair"))
    found = paths(dataclasses.replace(SPEC, states="none"))
    assert not any(p.startswith("states") or "lora_B" in p for p in found)
    assert {"adapters/default/js", "tokens/nll"} <= found


@pytest.mark.parametrize("states", ["sample", "none"])
def test_less_than_all_states_come_with_reductions(states: str) -> None:
    found = paths(dataclasses.replace(SPEC, states=states, kl=True))  # type: ignore[arg-type]
    assert {"reductions/base_norm", "reductions/effective_width", "adapters/default/delta_norm"} <= found
    assert "adapters/default/kl" in found
    assert ("rows/states" in found) == (f"states/{COMPONENT.path}/base" in found) == (states == "sample")
    assert not any(path.startswith("reductions") or path.endswith(("_norm", "/kl")) for path in paths(SPEC))


def test_what_goes_with_states() -> None:
    assert all(map(is_kept_with_states, ("states/x/base", "adapters/factor/factor", "adapters/a/delta/x")))
    for path in ("adapters/delta/js", "adapters/a/delta_norm", "reductions/base_norm", "tokens/nll"):
        assert not is_kept_with_states(path)


@pytest.mark.parametrize("sources", [("factor", "branch", "", "x"), ("factor", "branch", ""), ("branch",) * 4])
def test_source_of_delta_must_fit_the_factors(sources: tuple[str, ...]) -> None:
    adapter = Adapter(name="a", rank=(4, 2, 0, 1), scaling=(1.0,) * 4, factored=(True, False, True, False))
    assert adapter.sources == ("factor", "branch", "", "branch")
    given = dataclasses.replace(adapter, delta_source=("factor", "difference", "", "branch"))
    assert given.sources == ("factor", "difference", "", "branch")
    with pytest.raises(ValueError, match="`delta_source` of adapter 'a' must give one of"):
        dataclasses.replace(adapter, delta_source=sources)


def test_arrays_of_one_folder_never_give_one_dimension_two_lengths() -> None:
    wide = dataclasses.replace(COMPONENT, path="model.layers.1.q_proj", d_out=32)
    adapter = Adapter(name="default", rank=(4, 2), scaling=(2.0, 1.0), factored=(True, True))
    spec = dataclasses.replace(SPEC, components=(COMPONENT, wide), adapters=(adapter,))
    lengths: dict[tuple[str, str], int] = {}
    for entry in array_specs(spec):
        folder = entry.path.rpartition("/")[0]
        for dim, length in zip(entry.dims, entry.shape, strict=True):
            assert lengths.setdefault((folder, dim), length) == length


def test_factor_columns_follow_each_other() -> None:
    adapter = Adapter(name="a", rank=(4, 0, 3, 2), scaling=(1.0,) * 4, factored=(True, True, False, True))
    assert adapter.factor_start == (0, -1, -1, 4)
    assert adapter.n_factor_columns == 6


@pytest.mark.parametrize(
    ("rank", "d_out", "itemsize", "worth"),
    [(8, 576, 4, True), (144, 576, 2, True), (288, 576, 2, False), (576, 576, 4, False)],
)
def test_factor_is_kept_only_where_smaller(rank: int, d_out: int, itemsize: int, worth: bool) -> None:
    assert is_factor_smaller(rank=rank, d_out=d_out, itemsize=itemsize) is worth


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stream": "both"}, "`stream` is 'both'; allowed are"),
        ({"stream": "pair", "adapters": (ADAPTER, dataclasses.replace(ADAPTER, name="b"))}, "takes one adapter, not 2"),
        ({"components": (COMPONENT,) * 16_385}, "a run of 16385 components; at most 16384 can be kept"),
        ({"n_tokens": 0}, "`n_tokens` is 0; a run holds at least one token"),
        ({"components": (COMPONENT, COMPONENT)}, "component names must differ"),
        ({"adapters": (ADAPTER, ADAPTER)}, "adapter names must differ; \\['default'\\] stand twice"),
        ({"adapters": (dataclasses.replace(ADAPTER, rank=(1, 2)),)}, "must give rank, scaling and factored"),
        ({"ablate": "heads"}, "`ablate` is 'heads' of 1 adapters; allowed are"),
        ({"ablate": "kinds", "adapters": (ADAPTER, dataclasses.replace(ADAPTER, name="b"))}, "'kinds' of 2 adapters"),
        ({"states": "some"}, "`states` is 'some'; allowed are"),
        ({"state_rows": (True, False)}, "`state_rows` goes with states 'sample' alone, not 'all'"),
    ],
)
def test_impossible_runs_are_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(SPEC, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["../up", "a/b", "", "a..b", ".hidden", "a b"])
def test_names_can_not_leave_the_store(name: str) -> None:
    with pytest.raises(ValueError, match="can't be kept in a store"):
        dataclasses.replace(COMPONENT, path=name)


def test_unknown_dtype_is_named() -> None:
    with pytest.raises(ValueError, match="is 'float8'; allowed are"):
        dataclasses.replace(COMPONENT, dtype="float8")


def test_weights_and_component_axes_explain_themselves() -> None:
    adapter = dataclasses.replace(ADAPTER, biased=(True,))
    attributes = {e.path: e.attributes for e in array_specs(dataclasses.replace(SPEC, adapters=(adapter,)))}
    for name in ("rank", "scaling", "factor_start", "js"):
        assert attributes[f"adapters/default/{name}"]["component_axis"] == "in the order of components/path"
    for name in ("lora_B", "lora_bias"):
        assert "lora_B" in str(attributes[f"adapters/default/{name}/{COMPONENT.path}"]["long_name"])
