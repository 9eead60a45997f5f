"""The public objects of `lorascope.analyze`, which gives each of them when it is first asked for."""

from .adapters.adapter import adapter_report as adapter_report
from .compare_runs import paired as paired
from .compare_runs import side_by_side as side_by_side
from .groups import group_by as group_by
from .groups import to_dataframe as to_dataframe
from .information.bound import js_lower_bound as js_lower_bound
from .information.bound import js_upper_bound as js_upper_bound
from .jensen_shannon import jensen_shannon as jensen_shannon
from .measure_information import export_pairs as export_pairs
from .measure_information import measure_information as measure_information
from .measuring.measures import token_measure as token_measure
from .measuring.run import measure_run as measure_run
from .miub import miub as miub
from .mutual_information import mutual_information as mutual_information
from .qualify import qualify as qualify
from .readings import miub_readings as miub_readings
from .save import open_result as open_result
from .save import save as save
from .scaling.fit import fit_report as fit_report
from .scaling.fit import fit_scaling_law as fit_scaling_law
from .scaling.identify import identifiability as identifiability
from .scores import scores_table as scores_table
from .stats.metrics import compare_metrics as compare_metrics
from .stats.trends import trend_tests as trend_tests
