"""What an adapter's folder says of its training: taken where it is what it should be, and held against the model."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lorascope.capture.models.training_record import Training, base_notes, read_training

BASE = {"sha256": "a" * 64, "dtype": "float32", "share": 2, "shared_layers": 4}
RECORD: dict[str, Any] = {
    "n_samples": 7,
    "n_target_tokens": 90,
    "steps": [{"loss": 1.0}, {"loss": 0.5}],
    "data": ["one.train"],
    "model": {"name": "tiny", "n_parameters": 5, **BASE},
    "adapter_sha256": "b" * 64,
}
KNOWN = {"n_samples": 7, "n_target_tokens": 90, "n_steps": 2, "data": ["one.train"]}


def write(folder: Path, record: dict[str, Any]) -> None:
    (folder / "finetune.json").write_text(json.dumps(record))


def test_a_folder_without_a_record_says_nothing(tmp_path: Path) -> None:
    assert read_training(tmp_path, "mine", BASE) == Training({}, (), ())


@pytest.mark.parametrize("sha256", [None, "b" * 64])
def test_a_record_is_taken(tmp_path: Path, sha256: str | None) -> None:
    write(tmp_path, RECORD)
    assert read_training(tmp_path, "mine", BASE, adapter_sha256=sha256) == Training(KNOWN, (), (), is_proven=True)


def test_a_record_that_names_no_model_is_taken(tmp_path: Path) -> None:
    write(tmp_path, {key: value for key, value in RECORD.items() if key not in {"model", "adapter_sha256"}})
    assert read_training(tmp_path, "mine", BASE, adapter_sha256="c" * 64) == Training(KNOWN, (), ())


def test_a_model_whose_weights_arent_known_is_held_against_sharing_alone(tmp_path: Path) -> None:
    write(tmp_path, RECORD)
    assert read_training(tmp_path, "mine", {"share": 2, "shared_layers": 4}) == Training(KNOWN, (), ())
    (problem,) = read_training(tmp_path, "mine", {"share": 1, "shared_layers": 0}).problems
    assert (problem.place, problem.kind) == (str(tmp_path), "sharing")


def test_words_of_a_record_are_shown_short_and_harmless(tmp_path: Path) -> None:
    write(tmp_path, RECORD | {"model": BASE | {"dtype": "\x1b[31m" + "x" * 1000, "sha256": "c"}})
    (note,) = read_training(tmp_path, "mine", BASE).notes
    assert note.message.isprintable()
    assert len(note.message) < 200
    write(tmp_path, RECORD | {"n_samples": "\x1b[31m \n" * 1000})
    (note,) = read_training(tmp_path, "mine", BASE).notes
    assert note.message.isprintable()


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"n_samples": True}, r"`n_samples` is True; it should be of type 'int'"),
        ({"n_samples": 0}, r"`n_samples` is 0; it should be a number from 1 to 9223372036854775807"),
        ({"n_target_tokens": 2**63}, r"`n_target_tokens` is 9223372036854775808; it should be a number from 1"),
        ({"n_target_tokens": 1.5}, r"`n_target_tokens` is 1.5; it should be of type 'int'"),
        ({"data": "tiny"}, r"`data` is 'tiny'; it should be of type 'list'"),
        ({"data": ["\ud800"]}, r"`finetune.json` holds half of a character"),
        (
            {"data": ["\x1b[31mtiny"]},
            r"`data` should have at most 1000 names, of at most 300 characters that can be printed",
        ),
        ({"data": ["x" * 301]}, r"`data` should have at most 1000 names"),
        ({"data": ["x"] * 1001}, r"`data` should have at most 1000 names"),
        ({"model": "tiny"}, r"`model` is 'tiny'; it should be of type 'dict'"),
        ({"model": {"sha256": "0" * 64}}, r"`dtype` is not there; it should be of type 'str'"),
        ({"model": BASE | {"share": 3}}, r"`shared_layers` is 4, which doesn't fit a `share` of 3"),
        ({"model": BASE | {"share": -2}}, r"`share` is -2; it should be a number from 1"),
    ],
)
def test_nothing_is_taken_from_a_malformed_record(tmp_path: Path, entries: dict[str, Any], words: str) -> None:
    write(tmp_path, RECORD | entries)
    refuse(tmp_path, words)


def test_nothing_is_taken_from_what_is_no_record(tmp_path: Path) -> None:
    contents = {b"[1]": "it holds a list, not an object", b"{": "Expecting property name", b"\xff\xff": "can't decode"}
    for content, words in {**contents, b"[" * 100_000: "is nested too deep"}.items():
        (tmp_path / "finetune.json").write_bytes(content)
        refuse(tmp_path, words)


def refuse(folder: Path, words: str) -> None:
    found = read_training(folder, "mine", {"share": 3, "shared_layers": 6})
    assert (found.record, found.problems) == ({}, ())
    (note,) = found.notes
    assert note.kind == "training"
    start = "'finetune.json' of 'mine' can't be used, so that its training isn't known: "
    assert re.match(f"{re.escape(start)}.*({words})", note.message)
    assert len(note.message) < 300
    assert "\n" not in note.message


@pytest.mark.parametrize(
    ("made_for", "captured", "is_told"),
    [
        ("meta-llama/Llama-3.2-1B", "HuggingFaceTB/SmolLM2-135M", True),
        ("meta-llama/Llama-3.2-1B-Instruct", "meta-llama/Llama-3.2-1B", True),
        ("meta-llama/Llama-3.2-1B", "/models/llama-3.2-1b/", False),
        ("/cache/models--meta-llama--Llama-3.2-1B/snapshots/4e20de36", "unsloth/Llama-3.2-1B", False),
        ("C:\\models\\Llama-3.2-1B", "Llama-3.2-1B", False),
        ("", "tiny", False),
        (None, "tiny", False),
        (3, "tiny", False),
        ("tiny", "", False),
    ],
)
def test_an_adapter_of_another_model_is_told(made_for: Any, captured: str, is_told: bool) -> None:
    model: Any = SimpleNamespace(peft_config={"mine": SimpleNamespace(base_model_name_or_path=made_for)})
    found = [*base_notes(model, ["mine"], captured)]
    assert [(note.kind, note.places) for note in found] == ([("base", ("mine",))] if is_told else [])
    assert all(f"{made_for!r}" in note.message and f"{captured!r}" in note.message for note in found)


@pytest.mark.parametrize(
    ("made_for", "is_told"), [("weights", False), ("link", False), ("/x/weights", False), ("y", True)]
)
def test_a_gguf_file_is_called_as_its_folder(tmp_path: Path, made_for: str, is_told: bool) -> None:
    for name in ("weights", "link"):
        (tmp_path / name).mkdir()
    (tmp_path / "weights/m.gguf").write_bytes(b"")
    (tmp_path / "link/model.gguf").symlink_to(tmp_path / "weights/m.gguf")
    model: Any = SimpleNamespace(peft_config={"mine": SimpleNamespace(base_model_name_or_path=made_for)})
    assert bool([*base_notes(model, ["mine"], str(tmp_path / "link/model.gguf"))]) == is_told


def test_a_long_name_of_another_model_is_cut_and_harmless() -> None:
    model: Any = SimpleNamespace(peft_config={"mine": SimpleNamespace(base_model_name_or_path="\x1b[2J" + "x" * 1000)})
    (note,) = base_notes(model, ["mine"], "tiny")
    assert note.message.isprintable()
    assert len(note.message) < 600
