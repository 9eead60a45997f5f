"""What has to be true of two sides before anything is computed of their rows."""

import numpy as np

__all__ = ["check_sides"]


def check_sides(x: np.ndarray, y: np.ndarray, *, least_rows: int) -> None:
    """Raise ValueError unless both are finite (row, feature) arrays of the same rows, and of enough."""
    for side, name in ((x, "x"), (y, "y")):
        if side.ndim != 2 or not side.shape[1]:
            raise ValueError(f"`{name}` has shape {side.shape}; it must be (row, feature), with at least one feature")
    if len(x) != len(y):
        raise ValueError(f"`x` has {len(x)} rows and `y` {len(y)}; row i of one belongs to row i of the other")
    if len(x) < least_rows:
        raise ValueError(f"there are {len(x)} rows; give at least {least_rows}")
    for side, name in ((x, "x"), (y, "y")):
        bad = np.flatnonzero(~np.isfinite(side).all(axis=1))
        if len(bad):
            raise ValueError(
                f"{len(bad)} of {len(side)} rows of `{name}` hold NaN or infinity, first row {bad[0]}; leave these out"
            )
