"""What capture raises of its own."""

__all__ = ["CaptureError"]


class CaptureError(RuntimeError):
    """The model did something under capture that would have put wrong data into the store."""
