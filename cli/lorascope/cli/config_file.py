"""Settings of a command from a TOML file, beneath those of its command line."""

import tomllib
from pathlib import Path
from typing import Any

from cyclopts import App, ArgumentCollection
from cyclopts.config import Dict

from lorascope.stores.names import close_to

OPTION = "--config"


def settings_of_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Put what the file named by `--config` says into the arguments that the command line leaves out.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it isn't TOML, or has a key that is no setting of the command.
    """
    named = next((one for one in arguments if one.name == OPTION and one.tokens), None)
    if named is None:
        return
    path = Path(named.tokens[0].value)
    if not path.is_file():
        raise FileNotFoundError(f"`config` is {str(path)!r}, and there is no such file; name a TOML file")
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"`config` is {str(path)!r}, which isn't TOML: {error}; correct it") from error
    allowed = [one.name[2:].replace("-", "_") for one in arguments if one.name.startswith("--") and one is not named]
    for key in found:
        if key not in allowed:
            command = " ".join(commands)
            raise ValueError(f"`{path}` has {key!r}, which is no setting of `{command}`{close_to(key, allowed)}")
    nested: dict[str, Any] = found
    for command in reversed(commands):
        nested = {command: nested}
    Dict(data=nested, source=str(path))(app, commands, arguments)
