"""Versions, devices and fingerprints; and differences between two captures, in words."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lorascope.capture.samples.encoded import EncodedChoice, EncodedSample
from lorascope.capture.settling import provenance
from lorascope.capture.settling.provenance import (
    data_fingerprint,
    device_description,
    differences,
    library_versions,
    require_same_identity,
)
from lorascope.stores import StoreError


def sample() -> EncodedSample:
    return EncodedSample(
        id="a",
        dataset="tiny",
        split="test",
        prompt="main",
        token_ids=np.array([5, 6, 7]),
        roles=np.array([0, 0, 2], dtype=np.uint8),
        choices=(
            EncodedChoice(text="x", token_ids=np.array([7])),
            EncodedChoice(text="y", token_ids=np.array([8, 9])),
        ),
        answer=0,
    )


def test_versions_are_those_installed() -> None:
    versions = library_versions()
    assert versions["torch"] == torch.__version__
    assert versions["numpy"] == np.__version__
    assert {"python", "transformers", "peft", "tokenizers", "safetensors", "zarr", "lorascope"} <= versions.keys()


def test_cpu_is_described() -> None:
    described = device_description("cpu")
    assert described["type"] == "cpu"
    assert described["threads"] == torch.get_num_threads()
    assert described["name"]
    json.dumps(described, allow_nan=False)


def test_cpu_name_is_read_where_linux_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Some CPU: fast\n")
    assert provenance._cpu_name(cpuinfo) == "Some CPU: fast"
    monkeypatch.setattr("platform.processor", lambda: "arm")
    assert provenance._cpu_name(tmp_path / "none") == "arm"
    cpuinfo.write_text("processor\t: 0\n")
    assert provenance._cpu_name(cpuinfo) == "arm"


def test_cuda_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"card of {device}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    described = device_description("cuda:1")
    assert described["name"] == "card of cuda:1"
    assert described["capability"] == "9.0"


def test_other_devices_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`device` is 'meta'; allowed are 'cpu', 'cuda'"):
        device_description("meta")


def test_data_fingerprint_is_stable() -> None:
    """Written out by hand from the definition."""
    line = b'["a","tiny","test","main",0,3,[["x",[7]],["y",[8,9]]]]\n'
    body = np.array([5, 6, 7], dtype="<i8").tobytes() + bytes([0, 0, 2])
    assert data_fingerprint([sample()]) == hashlib.sha256(line + body).hexdigest()


def test_data_fingerprint_moves_with_every_field_with_order_and_with_number() -> None:
    changes: list[dict[str, Any]] = [
        {"dataset": "other"},
        {"split": ""},
        {"prompt": "text"},
        {"token_ids": np.array([5, 6, 8])},
        {"roles": np.array([0, 1, 2], dtype=np.uint8)},
        {"choices": ()},
        {"answer": 1},
        {"id": "b"},
    ]
    changed = [dataclasses.replace(sample(), **change) for change in changes]
    sets = [[], [sample()], [sample(), changed[-1]], [changed[-1], sample()], *([one] for one in changed)]
    assert len({data_fingerprint(samples) for samples in sets}) == len(sets)


IDENTITY = {"model": {"sha256": "ab"}, "settings": {"tokens": "all", "data_limit": None, "adapter": ("one",)}}


def test_nothing_differs() -> None:
    # As it comes back from JSON: tuples are lists there.
    stored = {"model": {"sha256": "ab"}, "settings": {"tokens": "all", "data_limit": None, "adapter": ["one"]}}
    assert not list(differences(stored, IDENTITY))
    require_same_identity(stored, IDENTITY, "run")


def test_each_difference_is_named() -> None:
    stored = {"model": {"sha256": "cd"}, "settings": {"tokens": "all", "adapter": ["one"]}, "old": 1}
    assert list(differences(stored, IDENTITY)) == [
        "model.sha256: 'cd' -> 'ab'",
        "old: 1 -> nothing",
        "settings.data_limit: nothing -> None",
    ]


def test_a_changed_capture_is_refused() -> None:
    with pytest.raises(StoreError, match=r"^`run` is another: model.sha256: 'cd' -> 'ab'; repeat the comm"):
        require_same_identity({**IDENTITY, "model": {"sha256": "cd"}}, IDENTITY, "`run` is another")
    with pytest.raises(StoreError, match="; give the same$"):
        require_same_identity({**IDENTITY, "model": {"sha256": "cd"}}, IDENTITY, "`run` is another", "give the same")


def test_many_differences_are_counted_and_long_values_cut() -> None:
    stored = {str(i): "x" * 100 for i in range(9)}
    with pytest.raises(StoreError, match=r"0: 'x{35}\.\.\.' -> 1;.*, and 3 more; repeat"):
        require_same_identity(stored, {str(i): 1 for i in range(9)}, "run")
