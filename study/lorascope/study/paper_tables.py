"""The tables of arXiv 2501.03152, as printed, and its table 1 laid out as a study."""

from importlib.resources import files
from typing import Literal, get_args

import pandas as pd  # type: ignore[import-untyped]

from lorascope.stores.names import require_choice

from .study_names import CellSet

SOURCE = (
    "Zhang, Gao, Zhang, Sun, Yang, Hou (2025), The Scaling Law for LoRA Base on Mutual Information Upper Bound, "
    "arXiv 2501.03152"
)
CHANCE = 0.25
"""Accuracy of guessing among four choices; cells below it count as collapsed."""

LAYERS = {"share8": 18, "share4": 20, "share2": 24, "share1": 32}
"""Setting -> number of unique layers of the model's 32; the last 16 share weights in groups."""
LAYER_PARAMETERS = {"Phi3": 113_252_352, "LLaMA3": 218_112_000}
OTHER_PARAMETERS = {"Phi3": 197_004_288, "LLaMA3": 1_050_677_248}
"""Parameters of untied embeddings and the last norm, of Phi-3-mini and Llama-3-8B. The paper doesn't state N."""
REFERENCE_RANK = 32


def paper_table(number: Literal[1, 2, 3]) -> pd.DataFrame:
    """Return one of the three tables printed in arXiv 2501.03152, uncorrected, with one row per number.

    Parameters
    ----------
    number
        1: dataset, model, metric, setting, value. 2: prompt, metric, setting, value, of Phi3 averaged over data sets.
        3: metric, setting, value (NaN if it can't be read), printed (the characters).

    Raises
    ------
    ValueError
        If there is no such table.

    Notes
    -----
    MIUB is eq. 9 summed over an unstated number of tokens, in a unit that isn't stated; CE's unit isn't stated either;
    ACC is a share. Each number is a single run without seed or error. LLaMA3, ARC-Easy, share8 prints MIUB as
    `3779.9.2`, which is 3779.9 here.

    References
    ----------
    Zhang et al. (2025), arXiv 2501.03152, tables 1 to 3.
    """
    if number not in (1, 2, 3):
        raise ValueError(f"`number` is {number!r}; the paper has tables 1, 2 and 3")
    with (files(__package__) / "paper" / f"table{number}.csv").open(encoding="utf-8") as file:
        table = pd.read_csv(file, dtype={"printed": str})
    table.attrs["source"] = f"{SOURCE}, table {number}"
    return table


def paper_study(cells: CellSet = "as printed", *, once: bool = False) -> pd.DataFrame:
    """Return table 1 of arXiv 2501.03152 as a study: one row per setting, data set and model, no averages.

    Parameters
    ----------
    cells
        `as printed`; `repaired`: ACC and CE of LLaMA3's ARC-Easy at share4 and share2 as the paper's own averages
        require, see Notes; `without collapsed`: as printed, without cells of an accuracy below 0.25.
    once
        Exclude LLaMA3's share1, which is its r32 run printed a second time. A fit of both sweeps together needs this;
        a fit of one sweep doesn't.

    Returns
    -------
    DataFrame
        `dataset`, `model`, `block` (dataset/model), `setting`, `sweep` (rank or size), `share` (layers that share
        weights), `layers` (unique ones), `N` (parameters in total), `N_non_embedding`, `R` (LoRA rank; not stated of
        the size sweep, and 32 here), `ACC`, `CE`, `MIUB`.

    Raises
    ------
    ValueError
        If `cells` isn't one of these.

    Notes
    -----
    The averages of LLaMA3's ARC-Easy fit only if what is printed under share4 (ACC 0.901, CE 11.594) belongs to share2,
    and share4 is ACC 0.217 and CE 13.63 to 13.66 (the middle, 13.645, is used). That is an inference, not an erratum.
    MIUB isn't affected.
    """
    require_choice("cells", cells, get_args(CellSet))
    printed = paper_table(1).query("dataset != 'AVG'")
    keys = ["dataset", "model", "setting"]
    cells_by_metric = printed.pivot(index=keys, columns="metric", values="value")
    cells_by_metric = cells_by_metric.reindex(pd.MultiIndex.from_frame(printed[keys].drop_duplicates())).reset_index()
    size = cells_by_metric["setting"].str.startswith("share")
    share = cells_by_metric["setting"].where(size, "share1")
    non_embedding = share.map(LAYERS) * cells_by_metric["model"].map(LAYER_PARAMETERS)
    sizes = {
        "block": cells_by_metric["dataset"] + "/" + cells_by_metric["model"],
        "setting": cells_by_metric["setting"],
        "sweep": size.map({True: "size", False: "rank"}),
        "share": share.str.removeprefix("share").astype(int),
        "layers": share.map(LAYERS),
        "N": non_embedding + cells_by_metric["model"].map(OTHER_PARAMETERS),
        "N_non_embedding": non_embedding,
        "R": cells_by_metric["setting"].where(~size, f"r{REFERENCE_RANK}").str.removeprefix("r").astype(int),
    }
    study = pd.DataFrame({**cells_by_metric[["dataset", "model"]], **sizes, **cells_by_metric[["ACC", "CE", "MIUB"]]})
    if cells == "repaired":
        slipped = (study["block"] == "ARCE/LLaMA3") & study["setting"].isin(["share4", "share2"])
        study.loc[slipped & (study["setting"] == "share4"), ["ACC", "CE"]] = 0.217, 13.645
        study.loc[slipped & (study["setting"] == "share2"), ["ACC", "CE"]] = 0.901, 11.594
    elif cells == "without collapsed":
        study = study[study["ACC"] >= CHANCE]
    if once:
        study = study[~((study["model"] == "LLaMA3") & (study["setting"] == "share1"))]
    study = study.reset_index(drop=True)
    study.attrs["source"] = f"{SOURCE}, table 1, {cells}"
    return study
