"""YAML as people mean it: a key that stands twice is refused, and 5e-4 is a number."""

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

__all__ = ["read_yaml"]


class _Loader(yaml.SafeLoader):
    """PyYAML's own loader takes the last of two equal keys, and 5e-4 for a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping whose keys differ."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.YAMLError(f"line {key.start_mark.line + 1}: {key.value!r} stands there twice; give it once")
            seen |= {key.value} if isinstance(key, yaml.ScalarNode) and key.value != "<<" else set()
        return super().construct_mapping(node, deep=deep)


# As in YAML 1.2: https://yaml.org/spec/1.2.2/#1032-tag-resolution
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+\Z"), list("-+.0123456789")
)


def read_yaml(path: Path) -> Mapping[str, Any]:
    """The mapping that a YAML file holds.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it isn't YAML in UTF-8, a key stands in it twice, or it holds anything but a mapping.
    """
    if path.is_dir():
        raise ValueError(f"`{path}` is a folder; name the study's YAML file")
    if not path.exists():
        raise FileNotFoundError(f"there is no study's file `{path}`; name a YAML file")
    try:
        content = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_Loader)  # noqa: S506 (a safe loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that is none is a ValueError
        raise ValueError(f"`{path}` isn't YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"`{path}` holds no settings; see docs/studies.md for an example")
    return content
