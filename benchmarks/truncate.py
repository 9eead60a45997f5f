"""What truncated adapters lose: `python benchmarks/truncate.py FOLDER` prints a Markdown table and draws a picture.

Adapters of SmolLM2-135M-Instruct with the study's settings, one per rank, are trained in the folder on the demo's
training questions, and their importance is captured on the first of its test questions (existing ones aren't made
again). Each is truncated to several shares of its parameters in three orders: by importance per parameter, as
`lorascope adapter --truncate` does; by the share of each layer's squared norm that a direction and all smaller ones
have; and by singular value over all layers (PARA, arXiv 2604.27796). All are measured on the last of the test
questions, paired by question: cross-entropy lost, and KL from the whole adapter's next-token distributions.
"""

import argparse
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from rounds import print_table, write_json

from lorascope.analyze.adapters.truncated import n_direction_parameters, truncatable_branches, write_truncated
from lorascope.analyze.figures.theme import BELOW, LINES, small_multiples
from lorascope.analyze.importance.importance import importance, importance_by_sample
from lorascope.analyze.report.document import draw
from lorascope.analyze.results.format import format_change, format_error, format_percent
from lorascope.capture import CaptureConfig, FinetuneConfig, capture, compare_adapters, finetune, load_model, read_items
from lorascope.stores import Run, open_run
from lorascope.study.demo_inputs import demo_model, facts_path

SHARES = (0.16, 0.25, 0.34, 0.5)
"""Shares of the parameters that are kept."""
ORDERS = {"importance": "importance", "norm": "norm of each layer", "para": "singular value"}
N_MEASURED, N_DRAWS = 32, 4
"""Questions on which importance is measured, and draws of labels for each."""
TRAINING = {"learning_rate": 1e-3, "batch_size": 16, "epochs": 1}
"""As in study/smollm2/study.yaml."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":", maxsplit=1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--limit", type=int, default=80, help="number of questions, at most 128")
    parser.add_argument("--picture", type=Path, default=Path("docs/truncated-adapters.png"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    rows = [row for rank in arguments.ranks for row in measure(arguments.folder, rank, arguments.limit)]
    columns = [
        "rank",
        "order",
        "parameters",
        "of all",
        "CE",
        "CE lost",
        "KL from the whole",
        "estimated from gradients",
    ]
    print_table("Truncated adapters", columns, map(table_row, rows))
    write_json(arguments.json, {"rows": rows})
    drawn = draw({"curve": json.loads(curve(rows).to_json())}, kind="png", width=720)
    if not drawn:
        raise SystemExit("the picture isn't drawn; install kaleido and a Chrome")
    arguments.picture.write_bytes(drawn["curve"])


def measure(folder: Path, rank: int, limit: int) -> Iterator[dict[str, Any]]:
    """A row for the base, the whole adapter and each truncated one, with standard errors over questions."""
    whole = folder / f"rank-{rank}"
    model, tokenizer = load_model(str(demo_model()), dtype="float32")
    if not whole.exists():
        finetune(model, tokenizer, read_items(facts_path("train")), whole, FinetuneConfig(rank=rank, **TRAINING))
    run = captured(folder, whole)
    folders = {"whole": whole}
    rows: dict[str, dict[str, Any]] = {"base": {"n_parameters": 0}, "whole": {}}
    for order in ORDERS:
        for share in SHARES:
            name = f"{order}_{100 * share:.0f}"
            out = folders[name] = folder / f"rank-{rank}-{name}"
            shutil.rmtree(out, ignore_errors=True)
            report, branches = truncatable_branches(whole, out)
            assert [branch.path for branch in branches] == list(run.component_paths)  # so both are in one order
            sizes = np.repeat(list(map(n_direction_parameters, branches)), rank).reshape(-1, rank)
            kept = largest(values_by(order, run, sizes), sizes, share)
            result = write_truncated(whole, out, report, [np.flatnonzero(layer) for layer in kept])
            rows["whole"]["n_parameters"] = result.attrs["n_parameters_before"]
            lost = importance_by_sample(run.importance(), (~kept).ravel().astype(int))[:, 1]
            rows[name] = {"order": order, "n_parameters": result.attrs["n_parameters"], "estimated": mean(lost)}
    items = read_items(facts_path("test"))[N_MEASURED:][-80:][:limit]
    measured = compare_adapters(model, tokenizer, items, folders)
    first = measured.sel(adapter="whole")
    for name, row in rows.items():
        one = measured.sel(adapter=name)
        yield {
            "rank": rank,
            "adapter": name,
            "kept": row["n_parameters"] / rows["whole"]["n_parameters"],
            "n_samples": measured.sizes["sample"],
            "ce": mean(one["ce"].values),
            "ce_lost": mean((one["ce"] - first["ce"]).values),
            "kl": mean(one["kl"].values),
            **row,
        }


def captured(folder: Path, adapter: Path) -> Run:
    """A run of the adapter with its importance on the first test questions."""
    path = folder / f"{adapter.name}.zarr"
    if not path.exists():
        questions = folder / "measured.jsonl"
        questions.write_text("".join(facts_path("test").read_text().splitlines(keepends=True)[:N_MEASURED]))
        capture(
            CaptureConfig(
                model=str(demo_model()), adapter=str(adapter), data=str(questions), out=str(path), dtype="float32",
                states="none", importance=N_DRAWS, score=False,
            )
        )  # fmt: skip
    return open_run(path)


def values_by(order: str, run: Run, sizes: np.ndarray) -> np.ndarray:
    """What the directions (layer, number) are kept by, largest first."""
    directions = importance(run)["directions"]
    sigma = directions["singular_value"].values.astype(float).reshape(sizes.shape)
    if order == "norm":
        rest = np.cumsum(np.square(sigma)[:, ::-1], axis=1)[:, ::-1]
        return rest / rest[:, :1]
    return sigma if order == "para" else directions["value"].values.reshape(sizes.shape) / sizes


def largest(values: np.ndarray, sizes: np.ndarray, share: float) -> np.ndarray:
    """Mask (layer, number) of each layer's largest value, and of further ones within this share of the parameters."""
    is_first = np.arange(values.shape[1]) == values.argmax(axis=1)[:, None]
    order = np.lexsort([-values.ravel(), ~is_first.ravel()])
    is_kept = is_first.ravel()
    is_kept[order[np.cumsum(sizes.ravel()[order]) <= share * sizes.sum()]] = True
    return is_kept.reshape(values.shape)


def mean(values: np.ndarray) -> tuple[float, float]:
    """Over samples, and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(values.size))


def table_row(row: Mapping[str, Any]) -> Sequence[str]:
    whole = row["adapter"] == "whole"
    return (
        str(row["rank"]),
        ORDERS[row["order"]] if "order" in row else row["adapter"],
        f"{row['n_parameters']:,}",
        format_percent(row["kept"]),
        format_error(*row["ce"]),
        "" if whole else format_change(*row["ce_lost"]),
        "" if whole else format_error(*row["kl"]),
        format_error(*row["estimated"]) if "estimated" in row else "",
    )


def curve(rows: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Parameters kept against KL from the whole adapter: a panel for each rank, a line for each order."""
    ranks = list(dict.fromkeys(row["rank"] for row in rows))
    figure, panels = small_multiples([f"rank {rank}" for rank in ranks], height=280)
    for rank, panel in zip(ranks, panels, strict=True):
        for place, (order, label) in enumerate(ORDERS.items()):
            mine = [row for row in rows if row["rank"] == rank and row.get("order") == order]
            value, error = np.array([row["kl"] for row in mine]).T
            figure.add_scatter(
                x=[100 * row["kept"] for row in mine],
                y=value,
                error_y={"array": error, "width": 2, "thickness": 1},
                mode="lines+markers",
                line={"color": LINES[place], "width": 1.5},
                name=f"by {label}",
                showlegend=rank == ranks[0],
                **panel,
            )
        figure.update_xaxes(title_text="parameters kept (%)", range=[0, 55], **panel)
    figure.update_yaxes(type="log", exponentformat="power", dtick=1)
    figure.update_yaxes(title_text="KL(whole || truncated) (nat/token)", col=1)
    figure.update_layout(showlegend=True, legend=BELOW, margin_b=50)
    return figure


if __name__ == "__main__":
    main()
