"""The public objects of `lorascope.study`, which gives each of them when it is first asked for."""

from .page.study_page import write_study_report as write_study_report
from .paper_tables import paper_study as paper_study
from .paper_tables import paper_table as paper_table
from .read_study import read_study as read_study
from .results.cells import length_cells as length_cells
from .results.cells import prompt_cells as prompt_cells
from .results.cells import study_cells as study_cells
from .results.study_results import study_results as study_results
from .results.tables import (
    datasets_table as datasets_table,
)
from .results.tables import (
    information_table as information_table,
)
from .results.tables import (
    lengths_table as lengths_table,
)
from .results.tables import (
    prompts_table as prompts_table,
)
from .results.tables import (
    texts_table as texts_table,
)
from .results.tables import (
    wide as wide,
)
from .results.units import read_units as read_units
