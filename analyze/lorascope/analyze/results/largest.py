"""Places of the largest values of arrays, found without sorting all values."""

import numpy as np
from jaxtyping import Float, Int64


def largest_places(values: Float[np.ndarray, "*row value"], n: int) -> Int64[np.ndarray, "*row top"]:
    """Return the indices of the n largest values along the last axis, largest first: equal ones in order, NaN last.

    All values come back, in this order, if there are at most n.

    Examples
    --------
    >>> largest_places(np.array([2.0, 5.0, np.nan, 5.0, 1.0]), 3)
    array([1, 3, 0])
    """
    n = min(n, values.shape[-1])
    if n < 1:
        return np.empty((*values.shape[:-1], 0), np.int64)
    keys = -values
    bound = np.partition(keys, n - 1, axis=-1)[..., n - 1 : n]
    # Values equal to the last one count too, as do those that can't be compared with it.
    is_near = ~(keys > bound)
    if (is_near.sum(axis=-1) == n).all():  # there are no such values
        columns = np.nonzero(is_near)[-1].reshape(*values.shape[:-1], n)
        order = np.argsort(np.take_along_axis(keys, columns, -1), axis=-1, kind="stable")
        return np.asarray(np.take_along_axis(columns, order, -1))
    columns = np.flatnonzero(is_near.reshape(-1, values.shape[-1]).any(axis=0))
    return np.asarray(columns[np.argsort(keys[..., columns], axis=-1, kind="stable")[..., :n]])
