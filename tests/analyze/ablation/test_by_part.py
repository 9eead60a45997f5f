from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lorascope.analyze.ablation.by_part import ablation_by_part

from ..conftest import ABLATED, Small


@pytest.mark.parametrize("options", [{}, {"is_weighted": True}, {"stream": "pair"}], ids=str)
@pytest.mark.parametrize("parts", ["components", "layers", "kinds"])
def test_ablation_is_a_mean_over_samples_that_were_ablated(
    make_small: Callable[..., Small], parts: str, options: dict[str, Any]
) -> None:
    small = make_small(ablate=parts, **options)
    result = ablation_by_part(small.run)
    assert result is not None
    values = small.by_sample(small.run.ablation().values)[np.arange(12) % ABLATED == 0]
    behind = values[:, [values.mean(axis=0).argmax()]] - values
    for name, by_sample in (("kl", values), ("behind", behind)):
        np.testing.assert_allclose(result[name], by_sample.mean(axis=0), rtol=1e-6, atol=1e-12)
        errors = by_sample.std(axis=0, ddof=1) / np.sqrt(6)
        np.testing.assert_allclose(result[f"{name}_se"], errors, rtol=1e-6, atol=1e-12)
    assert result["part"].values.tolist() == small.run.ablation()["part"].values.tolist()
    n_tokens = int(np.isfinite(small.run.ablation().values[:, 0]).sum())
    assert result.attrs == {"parts": parts, "n_samples": 6, "n_tokens": n_tokens}
