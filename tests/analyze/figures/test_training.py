from typing import Any

import numpy as np
import pytest

from lorascope.analyze.figures.training import training_figure

from .conftest import HOSTILE, legend_of, points_of, title_of

STEPS = (0, 2, 4, 5)


def record(scale: float = 1.0) -> dict[str, Any]:
    """What `finetune.json` holds of five steps, measured at every second and at the end; two layers."""
    steps = [
        {
            "step": step,
            "miub": 3e-4 * step * scale,
            "ce": 2.0 - 0.1 * step,
            "layers": [1e-4 * step * scale, 2e-4 * step * scale],
            "kinds": [3e-4 * step * scale],
            "seconds": 0.5,
        }
        for step in STEPS
    ]
    curve = {
        "unit": "nat",
        "samples": [["tiny", "a"], ["tiny", "b"]],
        "n_tokens": 40,
        "layers": [0, 1],
        "kinds": ["q_proj"],
        "steps": steps,
        "seconds": 2.0,
        "share": 0.125,
    }
    losses = [{"loss": 3.0 - 0.2 * k, "learning_rate": 1e-4, "grad_norm": 1.0} for k in range(5)]
    return {"config": {"rank": 4}, "steps": losses, "miub": curve}


def log_of(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The same training as a Trainer logs it."""
    entries: list[dict[str, Any]] = [
        {"step": number, "loss": step["loss"], "epoch": 1.0} for number, step in enumerate(record["steps"], start=1)
    ]
    for step in record["miub"]["steps"]:
        layers = {f"miub_layer_{layer}": value for layer, value in enumerate(step["layers"])}
        share = {"miub_share": 0.125} if step["step"] else {}
        entries.append({"step": step["step"], "miub": step["miub"], **layers, "ce": step["ce"], **share})
    return [*entries, {"step": 5, "train_runtime": 16.0}]


def test_miub_stands_above_the_loss_and_above_its_layers() -> None:
    figure = training_figure(record())
    miub, loss, ce, heat = figure.data
    np.testing.assert_array_equal(miub.x, STEPS)
    np.testing.assert_allclose(miub.y, [0, 6e-4, 1.2e-3, 1.5e-3])
    np.testing.assert_array_equal(loss.x, [1, 2, 3, 4, 5])
    np.testing.assert_allclose(loss.y, [3.0, 2.8, 2.6, 2.4, 2.2])
    np.testing.assert_allclose(ce.y, [2.0, 1.8, 1.6, 1.5])
    assert [trace.yaxis for trace in figure.data] == ["y", "y2", "y2", "y3"]
    assert (loss.mode, ce.mode) == ("lines", "lines+markers")
    np.testing.assert_array_equal(heat.x, STEPS)
    assert list(heat.y) == [0, 1]
    np.testing.assert_allclose(heat.z[1][1:], np.log10([4e-4, 8e-4, 1e-3]))
    assert np.isnan(heat.z[0][0])
    assert heat.text[1][1] == "step 2, layer 1: 4.00·10⁻⁴ nat"
    assert figure.layout.yaxis.title.text == "MIUB (nat)"
    assert figure.layout.yaxis2.title.text == "loss, CE (nat/token)"
    assert figure.layout.xaxis3.title.text == "optimiser steps"
    assert figure.layout.xaxis.matches == figure.layout.xaxis2.matches == "x3"
    assert figure.layout.showlegend is False
    for words in (
        "MIUB during training",
        "Measuring took 12.5 % of the training.",
        "none where it is exactly 0",
    ):
        assert words in title_of(figure)


def test_a_trainers_own_log_gives_the_same_lines() -> None:
    ours, trainer = training_figure(record()), training_figure({"log_history": log_of(record())})
    assert len(ours.data) == len(trainer.data)
    for mine, theirs in zip(ours.data, trainer.data, strict=True):
        np.testing.assert_allclose(np.array(mine.x, float), np.array(theirs.x, float))
        assert mine.text == theirs.text
    assert "Measuring took 12.5 % of the training." in title_of(trainer)


def test_trainings_are_compared_by_name() -> None:
    figure = training_figure({"rank 8": record(), f"rank {HOSTILE}": record(3.0)})
    assert [trace.yaxis for trace in points_of(figure)] == ["y", "y2", "y2"] * 2
    assert not [trace for trace in figure.data if trace.type == "heatmap"]
    assert legend_of(figure) == ["rank 8", "rank &lt;b&gt;%{x}&lt;/b&gt;"]
    np.testing.assert_allclose(points_of(figure)[3].y, [0, 1.8e-3, 3.6e-3, 4.5e-3])
    assert not any(HOSTILE in text for trace in points_of(figure) for text in trace.text)
    assert "Measuring took up to 12.5 % of the training." in title_of(figure)


def test_an_untrained_adapter_and_what_is_not_known_leave_gaps() -> None:
    still = record(0.0)
    for step in still["miub"]["steps"]:
        step["ce"] = None
    figure = training_figure(still)
    assert len(points_of(figure)) == 3  # no line of CE
    assert np.isnan(np.array(figure.data[-1].z, float)).all()


def test_refuses_what_holds_no_miub() -> None:
    with pytest.raises(ValueError, match="`record` is empty; give the record of a training"):
        training_figure({})
    with pytest.raises(ValueError, match="the record holds no MIUB; fine-tune with `miub_every`, or give the Trainer"):
        training_figure({**record(), "miub": None})
    with pytest.raises(ValueError, match="the record of 'b' holds no MIUB"):
        training_figure({"a": record(), "b": {"log_history": [{"loss": 1.0, "step": 1}]}})
