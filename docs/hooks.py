"""Add the help of every command, and a heading for every public object, to the site's pages."""

import importlib
import re
from typing import Any

from lorascope.cli.main import app

COMMANDS = "<!-- commands -->"
"""Where all commands go on a page."""
OBJECTS = re.compile(r"<!-- objects of ([\w.]+) -->")
"""Where the public objects of a package go."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return the page with commands and objects in place of its marks."""
    if COMMANDS in markdown:
        markdown = markdown.replace(COMMANDS, commands())
    return OBJECTS.sub(lambda mark: objects(mark[1]), markdown)


def commands() -> str:
    """Return the Markdown of all commands and subcommands, each under a heading of level 2 or 3."""
    whole = app.generate_docs(output_format="markdown", heading_level=1)
    return whole[whole.index("\n## lorascope ") :]


def objects(package: str) -> str:
    """Return the instructions to mkdocstrings, one for each name in the package's `__all__`.

    They name the module that an object comes from: `lorascope.analyze.miub` is a module to a reader of source, and the
    function that hides it only once it is imported. An alias of several types has no module of its own.
    """
    module = importlib.import_module(package)
    public = {name: getattr(module, name) for name in module.__all__}
    homes = {name: getattr(thing, "__module__", package) for name, thing in public.items()}
    return "\n".join(f"::: {homes[name] if homes[name] != 'types' else package}.{name}\n" for name in public)
