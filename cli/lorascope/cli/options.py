"""Options shared by several commands, and settings of a command read from a TOML file."""

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, get_args

from cyclopts import App, ArgumentCollection, Parameter
from cyclopts.config import Dict
from cyclopts.validators import Number

from lorascope.stores.names import suggestion

AsJson = Annotated[bool, Parameter(name="--json", negative=())]
RunPath = Annotated[str, Parameter(help="Folder or url of the run.")]
AdapterName = Annotated[str | None, Parameter(help="Name of the adapter, if the run has several.")]
Components = Annotated[
    tuple[str, ...],
    Parameter(help="A layer with LoRA: its path or a pattern, e.g. '*.q_proj'; repeat it for more; by default all."),
]
Workers = Annotated[int | None, Parameter(validator=Number(gte=1), help="Threads; by default one per processor.")]
Scheduler = Annotated[
    str | None,
    Parameter(help="Address of a running Dask scheduler, such as tcp://host:8786; or threads, processes, synchronous."),
]
StudyTables = Annotated[
    str,
    Parameter(
        help="A table (.csv, .tsv), a folder with study.csv or runs, several runs, or one of the words paper, "
        "paper:repaired and paper:without-collapsed: table 1 of arXiv 2501.03152. MIUB of runs is computed."
    ),
]
ConfigFile = Annotated[
    Path | None,
    Parameter(
        help="A TOML file with settings of a capture, each named as its option with `_` for `-`, such as "
        '`component = ["*.q_proj"]`; options on the command line win.'
    ),
]
"""Read by `add_file_settings`."""
StudyFile = Annotated[Path, Parameter(help="The study's YAML file.")]

EXPECTED = {bool: ((bool,), "true or false"), int: ((int,), "a whole number"), float: ((int, float), "a number")}
"""Type of a setting -> types of the values that a TOML file may give for it, and their description."""


def refuse_fractions(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Raise ValueError if an option that takes a whole number has a fraction, which Cyclopts would round."""
    for argument in arguments:
        kinds = (argument.hint, *get_args(argument.hint))
        for token in argument.tokens:
            if int in kinds and str not in kinds and "." in token.value:
                raise ValueError(f"`{argument.name}` is {token.value}; give a whole number")


def add_file_settings(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Fill options that are missing on the command line from the TOML file named by `--config`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it isn't TOML, has a key that is no setting of the command, or a value of the wrong type.
    """
    config = next((argument for argument in arguments if argument.name == "--config" and argument.tokens), None)
    if config is None:
        return
    path = Path(config.tokens[0].value)
    if not path.is_file():
        raise FileNotFoundError(f"`--config` is {str(path)!r}, and there is no such file; name a TOML file")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"`--config` is {str(path)!r}, which isn't TOML: {error}; correct it") from error
    settings = [argument for argument in arguments if argument.name.startswith("--") and argument is not config]
    allowed = {argument.name[2:].replace("-", "_"): argument.hint for argument in settings}
    for key, value in values.items():
        if key not in allowed:
            command = " ".join(commands)
            raise ValueError(
                f"`{path}` has {key!r}, which is no setting of `{command}`{suggestion(key, list(allowed))}"
            )
        for kind, (types, description) in EXPECTED.items():
            hints = (allowed[key], *get_args(allowed[key]))
            if str in hints:
                types, description = (*types, str), f"{description} or a text"
            if kind in hints and type(value) not in types:
                raise ValueError(f"`{path}` has {key} = {json.dumps(value, default=str)}; give {description}")
    nested: dict[str, Any] = values
    for command in reversed(commands):
        nested = {command: nested}
    Dict(data=nested, source=str(path))(app, commands, arguments)
