"""The codec of a capture that goes on; what `auto` takes is tested with the plan that prints it."""

from typing import Any

import pytest

from lorascope.capture import CaptureConfig
from lorascope.capture.settling.settle import settings_to_resume


@pytest.mark.parametrize(
    ("asked", "stored", "taken"),
    [
        ("default", "zstd", "zstd"),  # a run of format version 1
        ("default", "raw", "raw"),
        ("auto", "default", "default"),
        ("zstd", "raw", "zstd"),  # another capture, which is then refused
        ("auto", "pickle", "auto"),
        ("default", None, "default"),
    ],
)
def test_a_run_keeps_its_codec_unless_another_is_asked_for(asked: Any, stored: Any, taken: str) -> None:
    config = CaptureConfig(model="m", adapter="a", data="d", out="o", codec=asked)
    assert settings_to_resume(config, {"settings": {"codec": stored}}).codec == taken
    assert settings_to_resume(config, {"settings": 3}).codec == settings_to_resume(config, {}).codec == asked
