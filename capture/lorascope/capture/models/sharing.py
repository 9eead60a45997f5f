"""Parameter sharing: groups of neighbouring layers with one set of base weights between them."""

__all__ = ["check_sharing"]


def check_sharing(share: int, shared_layers: int, share_from: str) -> None:
    """Raise a ValueError unless these settings name a sharing."""
    if share < 1:
        raise ValueError(f"`share` is {share!r}; give at least 1, which leaves the model as it is")
    if share > 1 and (shared_layers < share or shared_layers % share):
        raise ValueError(f"`shared_layers` is {shared_layers!r}; give a multiple of `share`, which is {share}")
    if share_from not in ("first", "mean"):
        raise ValueError(f"`share_from` is {share_from!r}; allowed are first, mean")
