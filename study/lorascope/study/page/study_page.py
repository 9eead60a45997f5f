"""The page about a study: its sections in order."""

from lorascope.analyze.report.document import document
from lorascope.analyze.report.markup import escape

from . import study_record, study_sections
from .study import StudyResults

__all__ = ["render_study"]

TITLE = "Adapters by rank and model size"


def render_study(study: StudyResults, *, source: str = "") -> str:
    """HTML of the page about a study, complete in itself.

    Parameters
    ----------
    study
        What `study_results` returns.
    source
        Where the results lie, as the page says it.
    """
    models = ", ".join(dict.fromkeys(unit.model for unit in study.units))
    datasets = ", ".join(dict.fromkeys(study.tables["study"]["dataset"]))
    parts = [f"model {models}", f"data {datasets}", *([source] if source else [])]
    body = "".join(
        (
            f'<header><h1>{TITLE}</h1><p class="subtitle">{" · ".join(map(escape, parts))}</p></header>',
            study_record.notices(study),
            "<noscript><p>Without JavaScript the figures stay empty; text and tables don't need it.</p></noscript>",
            study_sections.headline(study),
            study_sections.paper_tables(study),
            study_sections.figures(study),
            study_sections.where(study),
            study_sections.training(study),
            study_sections.laws(study),
            study_sections.metrics(study),
            study_sections.claims(study),
            study_record.what_was_run(study),
            study_record.provenance(study),
        )
    )
    return document(TITLE, body)
