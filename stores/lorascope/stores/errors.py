"""The error that every reader and writer of a run raises."""

__all__ = ["StoreError"]


class StoreError(ValueError):
    """A store isn't what it should be, or an operation would make it so; the message says what to do."""
