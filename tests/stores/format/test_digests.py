import hashlib
import json
from typing import Any

import pytest

from lorascope.stores.format.digests import fingerprint, is_root_digest_right, run_fingerprint, with_root_digest

PROVENANCE: dict[str, Any] = {
    "model": {"name": "here/model", "sha256": "0a", "share": 1},
    "adapters": {"default": {"sha256": "1b"}},
    "tokenizer": {"sha256": "2c"},
    "data": "3d",
    "prompt": {"names": ["main"]},
    "settings": {"model": "here/model", "out": "runs/x", "device": "cpu", "store": "exact", "prompt": ["main"]},
    "js_share": 0.5,
    "libraries": {"torch": "2.0", "numpy": "2.1"},
    "device": {"type": "cpu", "name": "some", "threads": 4},
    "started": "today",
}
PULL = {"how": "pull", "source": "s3://b/x", "lorascope": "1", "time": "now", "selection": {"samples": 3}}


def test_fingerprint_is_of_canonical_json() -> None:
    values = {"b": [1, 2.5, None], "a": {"y": "é", "x": True}}
    text = '{"a":{"x":true,"y":"é"},"b":[1,2.5,null]}'
    assert fingerprint(values) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_fingerprint_refuses_what_json_cannot_hold(value: float) -> None:
    with pytest.raises(ValueError, match="Out of range float values"):
        fingerprint({"a": value})


def test_fingerprint_of_a_run_is_as_the_page_says() -> None:
    text = (
        '{"adapters":{"default":{"sha256":"1b"}},"data":"3d","device":"cpu","js_share":0.5,"libraries":{"peft":null,'
        '"tokenizers":null,"torch":"2.0","transformers":null},"model":{"sha256":"0a","share":1},'
        '"prompt":{"names":["main"]},"settings":{"store":"exact"},"tokenizer":{"sha256":"2c"}}'
    )
    expected = hashlib.sha256(text.encode()).hexdigest()
    assert run_fingerprint(PROVENANCE) == expected
    assert run_fingerprint({**PROVENANCE, "copied": [{"how": "compact", "source": "there"}]}) == expected
    pulled = hashlib.sha256(b'{"how":"pull","selection":{"samples":3}}').hexdigest()
    for steps in ([PULL], [PULL, {"how": "compact"}], [{"how": "pull"}, PULL]):
        assert run_fingerprint({**PROVENANCE, "copied": steps}) == pulled


@pytest.mark.parametrize("broken", [None, 3, [], "x", {"model": 3, "settings": [], "copied": 5}, {"copied": [7]}])
def test_provenance_of_another_form_has_one_too(broken: Any) -> None:
    assert len(run_fingerprint(broken)) == 64


def test_every_byte_of_a_root_is_sealed() -> None:
    content = with_root_digest({"zarr_format": 3, "attributes": {"root_digest": "old", "x": "0" * 64, "é": [1]}})
    digest = json.loads(content)["attributes"]["root_digest"]
    assert json.loads(content) == {"zarr_format": 3, "attributes": {"root_digest": digest, "x": "0" * 64, "é": [1]}}
    assert is_root_digest_right(content, digest)
    for place in range(len(content)):
        for bit in range(8):
            broken = bytearray(content)
            broken[place] ^= 1 << bit
            try:
                found = json.loads(bytes(broken))["attributes"]["root_digest"]
            except (ValueError, KeyError):
                continue
            assert not is_root_digest_right(bytes(broken), found)
    for other in (None, 3, "", digest.upper(), digest[:-1]):
        assert not is_root_digest_right(content, other)
