"""Changes that adapters make to the next token's distribution after each token, from the logits of two passes."""

import numpy as np
import torch

from lorascope.stores.format.tables import N_DRAWS, N_LARGEST

from ..samples.scoring import draw_ids, logit_parts

_BLOCK = 64
"""Number of neighbouring token ids whose largest value is looked at first."""
_DRAWS_STREAM = 3
"""Second word of the key of the draws' random numbers, so that they differ from others of the same seed."""


def draw_uniforms(seed: int, first: int, n_tokens: int) -> np.ndarray:
    """Return uniform numbers in [0, 1) for the draws of tokens from index `first` on, float64 (token, draw).

    A token's numbers depend on `seed` and on its index in the run alone: they are the blocks of a counter-based
    generator (Philox; Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3) whose counter is the index.
    """
    blocks = N_DRAWS // 4  # of four numbers, by token
    generator = np.random.Philox(key=[seed, _DRAWS_STREAM], counter=blocks * first)
    return np.asarray(np.random.Generator(generator).random((n_tokens, N_DRAWS)))


def next_token_changes(
    base: torch.Tensor, adapted: torch.Tensor, flat: torch.Tensor, uniforms: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return the arrays of `Run.changes` but the two `nll`, and `kl`, of captured tokens: name -> (token, ...).

    P is the softmax of the adapted logits, Q that of the base's. Where a logit is NaN, values are NaN and ids -1.

    Parameters
    ----------
    base, adapted
        Logits (sequence, position, token id) of the same batch without and with the adapter.
    flat
        Index of each captured token in the flattened (sequence, position) axis, int64.
    uniforms
        Float64 (token, draw) from `draw_uniforms`; both distributions are drawn from with the same.

    Notes
    -----
    Softmax and sums are float64: where terms of KL nearly cancel, its error is about 1e-13. Memory is that of a few
    tokens' logits.
    """
    base, adapted = base.flatten(0, 1), adapted.flatten(0, 1)
    parts = [
        _changes_of_part(base.index_select(0, flat[part]), adapted.index_select(0, flat[part]), uniforms[part])
        for part in logit_parts(len(flat), base)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _changes_of_part(base: torch.Tensor, adapted: torch.Tensor, uniforms: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return what `next_token_changes` does, of logits (token, token id) of all given tokens at once."""
    base, adapted = base.double(), adapted.double()
    log_ratio = adapted - base
    (p, log_z_adapted), (q, log_z_base) = _softmax(adapted), _softmax(base)
    log_ratio -= log_z_adapted - log_z_base
    arrays: dict[str, torch.Tensor] = {}
    for own, kl, largest, name in ((p, "kl_adapted_base", "gain", "adapted"), (q, "kl", "loss", "base")):
        terms = own * log_ratio
        if terms.sum().isnan():  # an id without probability adds nothing, also where its logit is -inf under both
            terms.masked_fill_(own == 0, 0)
        arrays[kl] = terms.sum(-1).clamp_(min=0)
        values, ids = _largest(terms, min(N_LARGEST, terms.shape[-1]))
        arrays[largest] = _widened(values.masked_fill(values <= 0, torch.nan), torch.nan)
        arrays[f"{largest}_token"] = _widened(ids.masked_fill(~(values > 0), -1), -1)
        (arrays[f"{name}_choice_p"], arrays[f"{name}_choice"]) = (first[:, 0] for first in _largest(own, 1))
        arrays[f"{name}_draw"] = draw_ids(own, uniforms)
        log_ratio.neg_()
    is_nan = arrays["kl"].isnan() | arrays["kl_adapted_base"].isnan()
    for key, values in arrays.items():
        mask, is_number = is_nan.view(-1, *(1,) * (values.ndim - 1)), values.is_floating_point()
        arrays[key] = values.to(torch.float32 if is_number else torch.int32)
        arrays[key].masked_fill_(mask, torch.nan if is_number else -1)
    return arrays


def _softmax(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (softmax, log of its denominator (token, 1)) of float64 logits, which are overwritten."""
    largest = logits.amax(-1, keepdim=True)
    powers = logits.sub_(largest).exp_()
    total = powers.sum(-1, keepdim=True)
    return powers.div_(total), total.log() + largest


def _largest(values: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (values, ids), descending, of each token's k largest values (token, id); NaN counts as largest.

    They lie in the k blocks of ids with the largest maxima, which is four times as fast as `topk` of all ids.
    """
    if values.shape[-1] < _BLOCK**2:
        return values.topk(k)
    if missing := -values.shape[-1] % _BLOCK:
        values = torch.nn.functional.pad(values, (0, missing), value=-torch.inf)
    blocks = values.view(len(values), -1, _BLOCK)
    chosen = blocks.amax(-1).topk(k).indices
    best, places = blocks.gather(1, chosen[..., None].expand(-1, -1, _BLOCK)).flatten(1).topk(k)
    return best, chosen.gather(1, places // _BLOCK) * _BLOCK + places % _BLOCK


def _widened(values: torch.Tensor, fill: float) -> torch.Tensor:
    """Return values (token, largest) with as many columns as are stored; a small vocabulary has fewer ids."""
    return torch.nn.functional.pad(values, (0, N_LARGEST - values.shape[-1]), value=fill)
