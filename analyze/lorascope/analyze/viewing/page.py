"""The page itself, and the manifest beside it that says which runs it shows."""

import json
from collections.abc import Sequence
from importlib.resources import files

from lorascope.analyze.results.format import run_names
from lorascope.stores import Run
from lorascope.stores.visible import one_line

MANIFEST = "view.json"
RUN, INDEX = "runs/{}/", "indexes/{}/"
"""Addresses of a run's Zarr and of its view index relative to the page, by the run's place in the manifest."""


def page() -> bytes:
    """The page as it was built from `view/`: HTML that asks for nothing but what lies where it does."""
    return (files(__package__) / "page.html").read_bytes()


def manifest(runs: Sequence[Run], addresses: Sequence[str]) -> bytes:
    """JSON of `view.json`: each run's name, its address relative to the page, and its index's."""
    names = run_names([run.place.name for run in runs])
    entries = [
        {"name": one_line(name), "run": address, "index": INDEX.format(place)}
        for place, (name, address) in enumerate(zip(names, addresses, strict=True))
    ]
    return json.dumps({"format": "lorascope.view", "format_version": 1, "runs": entries}).encode()
