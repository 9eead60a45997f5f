"""Settings of a command from a TOML file, beneath those of its command line."""

import json
import tomllib
from pathlib import Path
from typing import Any, get_args

from cyclopts import App, ArgumentCollection
from cyclopts.config import Dict

from lorascope.stores.names import suggestion

OPTION = "--config"
EXPECTED = {bool: ((bool,), "true or false"), int: ((int,), "a whole number"), float: ((int, float), "a number")}
"""Type of a setting that is no text -> types of the values that it takes, and what these are called."""


def refuse_fractions(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Raise a ValueError where a fraction is given for a whole number, which Cyclopts would round."""
    for argument in arguments:
        for token in argument.tokens:
            if int in (argument.hint, *get_args(argument.hint)) and "." in token.value:
                raise ValueError(f"`{argument.name}` is {token.value}; give a whole number")


def settings_of_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Put what the file named by `--config` says into the arguments that the command line leaves out.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it isn't TOML, or has a key that is no setting of the command, or a value of another type than the setting's.
    """
    named = next((argument for argument in arguments if argument.name == OPTION and argument.tokens), None)
    if named is None:
        return
    path = Path(named.tokens[0].value)
    if not path.is_file():
        raise FileNotFoundError(f"`--config` is {str(path)!r}, and there is no such file; name a TOML file")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"`--config` is {str(path)!r}, which isn't TOML: {error}; correct it") from error
    settings = [argument for argument in arguments if argument.name.startswith("--") and argument is not named]
    allowed = {argument.name[2:].replace("-", "_"): argument.hint for argument in settings}
    for key, value in values.items():
        if key not in allowed:
            command = " ".join(commands)
            raise ValueError(
                f"`{path}` has {key!r}, which is no setting of `{command}`{suggestion(key, list(allowed))}"
            )
        for kind, (types, words) in EXPECTED.items():
            if kind in (allowed[key], *get_args(allowed[key])) and type(value) not in types:
                raise ValueError(f"`{path}` has {key} = {json.dumps(value, default=str)}; give {words}")
    nested: dict[str, Any] = values
    for command in reversed(commands):
        nested = {command: nested}
    Dict(data=nested, source=str(path))(app, commands, arguments)
