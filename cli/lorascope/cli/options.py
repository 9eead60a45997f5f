"""Options that several commands share, each with its help."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

AsJson = Annotated[bool, Parameter(name="--json")]
RunPath = Annotated[str, Parameter(help="Folder or url of the run.")]
AdapterName = Annotated[str | None, Parameter(help="Name of the adapter, where the run holds several.")]
Components = Annotated[
    tuple[str, ...],
    Parameter(help="A component's path or a pattern, e.g. '*.q_proj'; may be given several times; by default all."),
]
Workers = Annotated[int | None, Parameter(validator=Number(gte=1), help="Threads; by default one a processor.")]
Scheduler = Annotated[
    str | None,
    Parameter(help="Address of a running Dask scheduler, such as tcp://host:8786; or threads, processes, synchronous."),
]
StudyTables = Annotated[
    str,
    Parameter(
        help="A table (.csv, .tsv), a folder that holds study.csv or runs, several runs, or one of the "
        "words paper, paper:repaired and paper:without-collapsed: table 1 of the paper. MIUB of runs is computed."
    ),
]
Where = Annotated[
    Sequence[str],
    Parameter(help="Only rows with these values, as in 'model=Phi3' or 'R=8,32'; give it again for another column."),
]
Level = Annotated[float, Parameter(help="Confidence level of intervals; a test is significant if p <= 1 - level.")]
Seed = Annotated[int, Parameter(help="Seed of random draws.")]
FullTables = Annotated[bool, Parameter(help="Print all tables and remarks.")]
ResultsOut = Annotated[
    Path | None,
    Parameter(
        help="Write report.json and figures.html to this folder, new or empty; or the first table alone, to a name "
        "ending in .csv, .parquet, .json, .nc or .zarr."
    ),
]
ConfigFile = Annotated[
    Path | None,
    Parameter(
        help="A TOML file of the settings of a capture, each under the name of its option with `_` for `-`, such as "
        '`component = ["*.q_proj"]`; what the command line says goes first.'
    ),
]
"""Read by `settings_of_file`."""
StudyFile = Annotated[Path, Parameter(help="The study's YAML file.")]
