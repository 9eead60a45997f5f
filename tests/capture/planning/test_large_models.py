"""Tables and sentences of docs/scale.md on captures of large models: from committed plans, and these from the code."""

import json

import pytest

from ...printed import ROOT, benchmark
from ...said.page import plain

large_models = benchmark("large_models")
CONTENT = json.loads(large_models.NUMBERS.read_text())
DENSE, MIXTURES = ({name: CONTENT[name] for name in some} for some in (large_models.SHAPES, large_models.MIXTURES))
PAGE = (ROOT / "docs/scale.md").read_text()


def test_the_page_has_the_tables() -> None:
    tables = [*large_models.tables(DENSE), *large_models.mixture_tables(MIXTURES)]
    assert all("\n".join(table) in PAGE for table in tables)


def test_the_page_says_what_the_plans_say() -> None:
    small, large = CONTENT["Llama-3.1-70B"], CONTENT["Llama-3.1-405B"]
    links = small["links"]["tensor parallel"]["all states"]
    memory = large_models.N_GPUS * large_models.GPU_BYTES
    by_way = small["gpus"]["tensor parallel"], large["gpus"]["FSDP2"]
    assert large["gpus"]["tensor parallel"] is None
    for words in (
        f"Llama-3.1-70B needs at least {by_way[0]} GPUs of 80 GB by tensor parallel.",
        f"its weights alone take {large['weights'] / 1e9:.0f} GB, and these have {memory / 1e9:.0f} GB",
        f"FSDP2 holds it on {by_way[1]} GPUs or more",
        f"Of the {sum(links.values()) / 1e6:.1f} MB that Llama-3.1-70B's writing process receives",
        f"{links['sums of the model'] / 1e6:.1f} MB are sums of the model itself",
        f"{links['base gathered to be stored'] / 1e6:.1f} MB are outputs of split layers",
        f"{links['sums that measure'] / 1e6:.1f} MB are the sums that measure",
        f"{large_models.FLOPS / 1e12:.0f} TFLOP/s of dense bfloat16, and {large_models.LINK / 1e9:.0f} GB/s received",
        f"{large_models.ENCODERS} threads, the most that one process has, at {large_models.ENCODING * 1e9:g} processor",
    ):
        assert words in plain(PAGE)


def test_the_page_says_what_the_plans_of_mixtures_say() -> None:
    totals = [sum(found["memory"]["all states"].values()) for found in MIXTURES.values()]
    least = [large_models.least_gpus_of(total) for total in totals]
    adapters = [found["adapter"] / 1e9 for found in MIXTURES.values()]
    rates = [[large_models.DISKS[0] / size for size in found["disk"].values()] for found in MIXTURES.values()]
    (all_small, none_small), (all_large, none_large) = (
        [f"{float(f'{rate:.2g}'):,.0f}" for rate in own[:2]] for own in rates
    )
    small, large = MIXTURES
    assert (small, large) == ("Mixtral-8x7B", "Qwen3-235B-A22B")
    for words in (
        f"{small} with an adapter on its experts needs at least {least[0]} GPUs of 80 GB, {large} at least {least[1]}.",
        f"PEFT keeps in float32: {adapters[0]:.1f} GB for {small}, {adapters[1]:.1f} GB for {large}.",
        f"an adapter of rank {large_models.RANK} is on `gate_up_proj` and `down_proj` of all experts, "
        f"and a batch has {large_models.WINDOW:,} tokens",
        f"writes {large_models.DISKS[0] / 1e9:.0f} GB/s takes {all_small} tokens a second of {small} with all states, "
        f"and {none_small} with `--states none`; of {large} {all_large} and {none_large}.",
    ):
        assert words in plain(PAGE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Llama-3-8B", "Mixtral-8x7B"])
def test_the_committed_numbers_are_those_of_plans(name: str) -> None:
    assert json.loads(json.dumps(large_models.plans_of(name))) == CONTENT[name]
