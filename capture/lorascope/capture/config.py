"""Settings of the stages: one frozen dataclass each."""

from dataclasses import dataclass

from .selection import check_selection

__all__ = ["CaptureConfig", "FinetuneConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneConfig:
    """How a LoRA adapter is trained; learning rate, batch size and optimiser default to those of arXiv 2501.03152."""

    rank: int = 32
    """Rank of every layer's adapter."""
    alpha: int | None = None
    """Numerator of the scaling alpha / rank; None for 2 * rank, a scaling of 2."""
    dropout: float = 0.0
    """Probability of dropping an input feature of the adapter while training."""
    learning_rate: float = 4e-5
    """Step size at the start; it falls linearly to 0 over the training, without warm-up."""
    batch_size: int = 32
    """Samples of an optimiser step."""
    micro_batch_size: int | None = None
    """Samples that pass the model at once, a divisor of the batch size; None for the whole batch."""
    epochs: float = 3.0
    """Passes over the training samples."""
    max_steps: int | None = None
    """Optimiser steps, instead of `epochs`; None to go by `epochs`."""
    seed: int = 0
    """Seed of the adapter's first weights, the order of samples and dropout."""
    max_length: int | None = None
    """Most tokens of a sample; None for the model's context."""
    window_tokens: int = 512
    """Tokens of a window that plain text is cut into."""
    score_batch_tokens: int = 4096
    """Most tokens of a batch when held-out samples are scored."""

    def __post_init__(self) -> None:
        _at_least("rank", self.rank, 1)
        _at_least("alpha", self.alpha, 1)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` is {self.dropout!r}; give a probability from 0 to below 1")
        _positive("learning_rate", self.learning_rate)
        _at_least("batch_size", self.batch_size, 1)
        _at_least("micro_batch_size", self.micro_batch_size, 1)
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"`micro_batch_size` is {self.micro_batch_size}, which doesn't divide `batch_size` {self.batch_size}; "
                "give a divisor"
            )
        _positive("epochs", self.epochs)
        _at_least("max_steps", self.max_steps, 1)
        _at_least("seed", self.seed, 0)
        _at_least("max_length", self.max_length, 2)
        _at_least("window_tokens", self.window_tokens, 2)
        _at_least("score_batch_tokens", self.score_batch_tokens, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureConfig:
    """What one capture does; the store keeps it whole."""

    model: str
    """The frozen base model: a hub id, a local folder, or a .gguf file."""
    adapter: str
    """Folder of the PEFT LoRA adapter."""
    data: tuple[str, ...]
    """Files of samples: JSON Lines of multiple-choice items, or plain text."""
    out: str
    """Folder of the run; new or empty."""
    tokens: str = "all"
    """Which tokens of a sample to keep: `all`, `answer`, or `last:N`."""
    limit: int | None = None
    """Capture only the first so many items, or windows of text, of each file."""
    dtype: str = "auto"
    """Type the model runs in: `auto` (the checkpoint's own), `float32`, `float16` or `bfloat16`."""
    store: str = "exact"
    """`exact` keeps base in the type the layer put out, bit for bit; `bf16` narrows it to bfloat16."""
    device: str = "auto"
    """Where the model runs: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1` ..."""
    batch_tokens: int = 1024
    """Most tokens in a batch, padding included; a longer sample stands alone. Part of what the results depend on."""
    window_tokens: int = 512
    """Tokens in each window that plain text is cut into."""
    js_share: float | None = None
    """Share of tokens whose js is measured and whose sums are checked; by default all on a GPU, 1 in 64 on a CPU."""
    seed: int = 0
    """Chooses those tokens."""
    score: bool = True
    """Whether to score every choice, with and without the adapter, before states are captured."""
    allow_zero: bool = False
    """Whether an adapter whose lora_B is all zero (untrained) may be captured."""
    trust_remote_code: bool = False
    """Whether code that comes with the model may run."""

    def __post_init__(self) -> None:
        check_selection(self.tokens)
        if not self.data:
            raise ValueError("`data` is empty; name at least one file of samples")
        _one_of("dtype", self.dtype, ("auto", "float32", "float16", "bfloat16"))
        _one_of("store", self.store, ("exact", "bf16"))
        _at_least("limit", self.limit, 1)
        _at_least("batch_tokens", self.batch_tokens, 1)
        _at_least("window_tokens", self.window_tokens, 2)
        _at_least("seed", self.seed, 0)
        if self.js_share is not None and not 0 < self.js_share <= 1:
            raise ValueError(f"`js_share` is {self.js_share!r}; it must be above 0 and at most 1")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"`{name}` is {value!r}; allowed are {', '.join(allowed)}")


def _at_least(name: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise ValueError(f"`{name}` is {value!r}; give at least {least}")


def _positive(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise ValueError(f"`{name}` is {value!r}; give a finite number above 0")
