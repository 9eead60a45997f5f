"""The sum that a layer puts out: a base, and what an adapter adds to it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from .sites import Addition


@dataclass(frozen=True, slots=True)
class Sum:
    """A layer's base, what an adapter adds to it, and what came out: flat (sequence * position, ...), or some of it."""

    addition: Addition
    base: torch.Tensor
    """(token, feature), in the layer's own type."""
    given: torch.Tensor | None = None
    """What delta is known by: z (token, rank), or delta itself, float32; None where it is what output differs by."""
    output: torch.Tensor | None = None
    """What the layer put out, as base; None where it didn't add."""
    dtype: torch.dtype = torch.float32
    """Type in which the layer computed delta."""

    @property
    def is_factored(self) -> bool:
        """Whether delta is made of z."""
        return self.given is not None and self.addition.weight is not None

    @property
    def delta(self) -> torch.Tensor:
        """What was added, float32 (token, feature)."""
        if self.given is None:
            assert self.output is not None
            return self.output.float() - self.base.float()
        return self.addition.delta(self.given) if self.is_factored else self.given

    def of(self, take: Callable[[torch.Tensor], torch.Tensor]) -> "Sum":
        """The sum of those tokens that `take` takes."""
        given, output = (None if tensor is None else take(tensor) for tensor in (self.given, self.output))
        return replace(self, base=take(self.base), given=given, output=output)
