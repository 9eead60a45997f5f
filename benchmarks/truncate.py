"""What truncated adapters lose: `python benchmarks/truncate.py FOLDER` prints a Markdown table and draws a picture.

Adapters of SmolLM2-135M-Instruct with the study's settings, one per rank, are trained in the folder on the demo's
training questions (existing ones aren't trained again). Each is truncated to several shares of the
squared norm of its layers' changes, and all are measured on the demo's test questions, paired by question: parameters
kept against cross-entropy lost, accuracy, and KL from the whole adapter's next-token distributions.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from rounds import print_table, write_json

from lorascope.analyze import truncate_adapter
from lorascope.analyze.figures.theme import BELOW, LINES, small_multiples
from lorascope.analyze.report.document import draw
from lorascope.analyze.results.format import format_change, format_error, format_percent
from lorascope.capture import FinetuneConfig, compare_adapters, finetune, load_model, read_items
from lorascope.study.demo_inputs import demo_model, facts_path

SHARES = (0.5, 0.8, 0.9, 0.95, 0.99, 0.999)
TRAINING = {"learning_rate": 1e-3, "batch_size": 16, "epochs": 1}
"""As in study/smollm2/study.yaml."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":", maxsplit=1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 32, 64])
    parser.add_argument("--limit", type=int, help="number of questions; all if not given")
    parser.add_argument("--picture", type=Path, default=Path("docs/truncated-adapters.png"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    rows = [row for rank in arguments.ranks for row in measure(arguments.folder, rank, arguments.limit)]
    columns = ["rank", "share", "parameters", "of all", "CE", "CE lost", "accuracy", "lost", "KL from the whole"]
    print_table("Truncated adapters", columns, map(table_row, rows))
    write_json(arguments.json, {"rows": rows})
    drawn = draw({"curve": json.loads(curve(rows).to_json())}, kind="png", width=720)
    if not drawn:
        raise SystemExit("the picture isn't drawn; install kaleido and a Chrome")
    arguments.picture.write_bytes(drawn["curve"])


def measure(folder: Path, rank: int, limit: int | None) -> Iterator[dict[str, Any]]:
    """A row for the base, the whole adapter and each truncated one, with standard errors over questions."""
    whole = folder / f"rank-{rank}"
    model, tokenizer = load_model(str(demo_model()), dtype="float32")
    if not whole.exists():
        config = FinetuneConfig(rank=rank, **TRAINING)
        finetune(model, tokenizer, read_items(facts_path("train")), whole, config)
    folders, counts = {"whole": whole}, {}
    for share in SHARES:
        out = folder / f"rank-{rank}-{share}"
        if out.exists():
            raise SystemExit(f"{out} is there; delete the truncated adapters of an earlier run first")
        found = truncate_adapter(whole, out, share=share)
        folders[f"share_{share}".replace(".", "_")] = out
        counts[f"share_{share}".replace(".", "_")] = (share, found.attrs["n_parameters"], median_rank(found))
        counts["whole"] = (1.0, found.attrs["n_parameters_before"], rank)
    counts = {"base": (0.0, 0, 0), **counts}
    measured = compare_adapters(model, tokenizer, read_items(facts_path("test"))[:limit], folders)
    first = measured.sel(adapter="whole")
    for name in measured["adapter"].values.tolist():
        share, n_parameters, median = counts[name]
        one = measured.sel(adapter=name)
        yield {
            "rank": rank,
            "adapter": name,
            "share": share,
            "n_parameters": n_parameters,
            "kept": n_parameters / counts["whole"][1],
            "median_rank": median,
            "n_samples": measured.sizes["sample"],
            "ce": mean(one["ce"]),
            "ce_lost": mean(one["ce"] - first["ce"]),
            "accuracy": mean(100 * one["correct"]),
            "accuracy_lost": mean(100 * (first["correct"] - one["correct"])),
            "kl": mean(one["kl"]),
        }


def median_rank(found: xr.Dataset) -> float:
    return float(found["rank"].median())


def mean(values: xr.DataArray) -> tuple[float, float]:
    """Over samples, and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(values.size))


def table_row(row: Mapping[str, Any]) -> Sequence[str]:
    whole = row["adapter"] == "whole"
    named = {"base": "base", "whole": "whole"}.get(row["adapter"], f"{100 * row['share']:g} %")
    return (
        str(row["rank"]),
        named,
        f"{row['n_parameters']:,}",
        format_percent(row["kept"]),
        format_error(*row["ce"]),
        "" if whole else format_change(*row["ce_lost"]),
        format_error(*row["accuracy"]),
        "" if whole else format_change(*row["accuracy_lost"]),
        "" if whole else format_error(*row["kl"]),
    )


def curve(rows: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Parameters kept against CE lost and KL, a line for each rank; each point's label is its share of the norm."""
    figure, panels = small_multiples(
        ["cross-entropy lost on answers (nat/token)", "KL(whole || truncated), all tokens (nat/token)"],
        height=260,
        share_y=False,
    )
    for place, rank in enumerate(dict.fromkeys(row["rank"] for row in rows)):
        mine = [row for row in rows if row["rank"] == rank and row["adapter"] not in ("base", "whole")]
        for name, panel in zip(("ce_lost", "kl"), panels, strict=True):
            value, error = np.array([row[name] for row in mine]).T
            figure.add_scatter(
                x=[100 * row["kept"] for row in mine],
                y=value,
                error_y={"array": error, "width": 2, "thickness": 1},
                mode="lines+markers+text",
                text=[f"{100 * row['share']:g}" if place == 0 else "" for row in mine],
                textposition="top right",
                textfont={"size": 10},
                line={"color": LINES[place], "width": 1.5},
                name=f"rank {rank}",
                showlegend=name == "ce_lost",
                **panel,
            )
    figure.update_xaxes(title_text="parameters kept (%)", range=[0, 115])
    figure.update_yaxes(type="log", exponentformat="power", dtick=2, **panels[1])
    figure.add_hline(y=0, line={"color": "#999", "width": 1, "dash": "dot"}, **panels[0])
    figure.update_layout(showlegend=True, legend=BELOW, margin_b=50)
    return figure


if __name__ == "__main__":
    main()
