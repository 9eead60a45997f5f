"""Settings of the stages: one frozen dataclass each."""

import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from lorascope.stores.format.spec import ABLATE
from lorascope.stores.names import require_choice
from lorascope.stores.reading.token_choice import CHOICE_HELP, parse_choice
from lorascope.stores.size import parse_size

from .models.source import check_sharing

LOADING = (
    *("dtype", "device_map", "tensor_parallel", "fully_shard", "trust_remote_code"),
    *("share", "shared_layers", "share_from"),
)
"""Settings that say how a model is loaded, apart from its device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneConfig:
    """Settings for training a LoRA adapter; learning rate, batch size and optimiser default to arXiv 2501.03152's."""

    rank: int = 32
    """Rank of every layer's adapter."""
    alpha: int | None = None
    """Numerator of the scaling alpha / rank; by default 2 * rank, a scaling of 2."""
    dropout: float = 0.0
    """Probability of dropping an input feature of the adapter while training."""
    learning_rate: float = 4e-5
    """Step size at the start; it falls linearly to 0 over the training, without warm-up."""
    batch_size: int = 32
    """Samples in one optimiser step."""
    micro_batch_size: int | None = None
    """Samples in one forward pass, a divisor of the batch size; by default the whole batch."""
    epochs: float = 3.0
    """Passes over the training samples."""
    max_steps: int | None = None
    """Optimiser steps, instead of `epochs`; by default those of `epochs`."""
    seed: int = 0
    """Seed of the adapter's first weights, the order of samples and dropout."""
    max_length: int | None = None
    """Largest number of tokens in a sample; by default the model's context."""
    window_tokens: int = 512
    """Tokens of a window that plain text is cut into."""
    score_batch_tokens: int = 4096
    """Largest number of tokens in a batch when held-out samples are scored."""
    miub_every: int | None = None
    """Measure MIUB, how far the adapter moves all layers, on held-out samples at the start and then after this many
    optimiser steps; by default never."""
    miub_samples: int = 16
    """Number of held-out samples for MIUB; they are taken from the start of each data set in turn."""

    def __post_init__(self) -> None:
        """Raise ValueError if a number is out of its range, or `micro_batch_size` doesn't divide `batch_size`."""
        counts = ("rank", "alpha", "batch_size", "micro_batch_size", "max_steps", "score_batch_tokens")
        _require_at_least(self, 1, *counts, "miub_every", "miub_samples")
        _require_at_least(self, 2, "max_length", "window_tokens")
        _require_at_least(self, 0, "seed")
        for name in ("learning_rate", "epochs"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"`{name}` is {getattr(self, name)!r}; give a finite number above 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` is {self.dropout!r}; give a probability from 0 to below 1")
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"`micro_batch_size` is {self.micro_batch_size}, which doesn't divide `batch_size` {self.batch_size}; "
                "give a divisor"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureConfig:
    """Settings of one capture: model, adapters, data, tokens and storage; the run stores them."""

    model: str
    """The frozen base model: a hub id, a local folder, or a .gguf file."""
    adapter: tuple[str, ...]
    """Folder of the PEFT LoRA adapter, or `name=folder`; several for the stream `base`."""
    data: tuple[str, ...]
    """Samples: files (.jsonl, .parquet, .txt), or data sets such as `piqa:validation`; docs/data.md names formats."""
    out: str
    """Folder of the run, or an `s3://` address; new, or an interrupted run of the same capture, which is continued."""
    component: tuple[str, ...] = ()
    """Layers with LoRA to capture, by path or pattern, such as `*.q_proj`; by default all that an adapter changes."""
    stream: Literal["adapted", "base", "pair"] = "adapted"
    """Input of the layers: `adapted` (adapter on), `base` (adapter off; for several adapters), `pair` (both)."""
    states: Literal["all", "sample", "none"] = "all"
    """`all` stores base and delta; `none` only measures of each token, such as js, the Jensen-Shannon divergence of
    outputs without and with the adapter; `sample` all in some rows."""
    states_share: float = 0.05
    """With `states` = `sample`: share of the rows (of 1024 tokens) that store base and delta."""
    codec: Literal["default", "auto", "zstd", "lz4", "raw"] = "default"
    """`default` compresses by type (`lz4` for float32, `zstd` for the others), `raw` not at all: larger, and faster
    where the disk is faster than the encoder; `lorascope pull` can compress the run later. `auto` tries `default`
    and `raw` on a few samples and takes the faster one."""
    tokens: str = field(default="all", metadata={"help": CHOICE_HELP})
    """Tokens of each sample to keep; the command line's help lists the choices."""
    budget: str | None = None
    """Largest size of the run with its neutral texts, such as `50GB`: keeps as many tokens as fit, chosen at random;
    `tokens` must be `all`."""
    generate: int = 0
    """Tokens to generate greedily after each prompt, in place of the answer or last turn; 0 for none."""
    limit: int | None = None
    """Capture only this many items (or windows of text) from the start of each file."""
    prompt: tuple[str, ...] = ("main",)
    """Prompts of multiple-choice items: `main`, `prompt1`, `prompt2`, `prompt3`, or files of templates (.txt)."""
    examples: tuple[str, ...] = ()
    """Files of multiple-choice items; the examples in a prompt are drawn from them, by data set."""
    answer_tokens: int = 0
    """Largest number of tokens that the model may write as its own answer for scoring; 0 for none."""
    share: int = 1
    """Number of neighbouring layers that share one set of base weights; 1 for the model as it is."""
    shared_layers: int = 16
    """Number of the last layers in such groups; a multiple of `share`."""
    share_from: Literal["first", "mean"] = "first"
    """Source of a group's weights: its first layer, or the mean over its layers."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Type the model runs in: `auto` (the checkpoint's own), `float32`, `float16` or `bfloat16`."""
    store: Literal["exact", "bf16"] = "exact"
    """`exact` stores base in the type of the layer's output, bit for bit; `bf16` rounds it to bfloat16."""
    device: str = "auto"
    """Device of the model: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1` ...; under torchrun one a rank."""
    device_map: str | None = None
    """Spreads a model that is too big for one device: a strategy of accelerate, such as `auto` or `balanced`."""
    tensor_parallel: int = 1
    """Under torchrun: number of processes over which every layer is split (tensor parallel), by the plan that
    transformers has for the model; further processes take other samples."""
    fully_shard: bool = False
    """Under torchrun: shard the model's weights over all processes (FSDP2), which take different samples."""
    batch_tokens: int = 1024
    """Largest number of tokens in a batch, with padding; a longer sample has its own batch. Results depend on it
    slightly."""
    window_tokens: int = 512
    """Tokens in each window that plain text is cut into."""
    js_share: float | None = None
    """Share of tokens on which js is measured, and base + delta compared with the layer's output; by default all on a
    GPU, 1 in 64 on a CPU."""
    kl_share: float = 1 / 64
    """Share of the batches in which KL of next-token predictions without and with the adapter is measured, unless
    `states` is `all`."""
    changes: Literal["auto", "all", "none"] = "auto"
    """Store which tokens each prediction of the next one gains and loses by the adapter: in `all` batches, in `none`,
    or, as `auto`, in all of up to 20,000 tokens and above that in a share that costs a fifth of the pass's time."""
    ablate: Literal["components", "layers", "kinds"] | None = None
    """Measure what each part of the adapter does to the model's predictions: a pass without each component, layer or
    kind of components, and KL(adapted || without it), in some batches."""
    ablate_share: float = 1 / 64
    """With `ablate`: share of the batches in which it is measured, at least one; each takes a pass for every part."""
    importance: int = 0
    """Measure on which directions of the adapter predictions depend, in up to 32 samples, by the gradients for this
    number of drawn next tokens, such as 4; 0 for none."""
    null_adapters: int = 0
    """Measure what this number of random adapters of the same size does, in up to 32 samples: whether the adapter does
    more than chance; 0 for none, and from 8 on in units of their spread."""
    seed: int = 0
    """Seed of the random choice of tokens and batches."""
    queue: str | None = None
    """Largest amount of memory for rows that wait to be written, such as `8 GiB`; by default 4 GiB, or one batch and
    one row if that is more."""
    overfill: bool = False
    """Start the capture even if it is expected not to fit in the free space."""
    measure_overhead: bool = False
    """Pass up to three batches once more without capturing, and keep how much longer the capture took."""
    score: bool = True
    """Score every choice, with and without the adapter, before states are captured."""
    score_base: bool = True
    """Score without the adapter too; not needed if another run has these scores already."""
    replies: bool | str = False
    """Write down what the model replies to short prompts without the adapter, with it, and with it at 1.5 and 2 times
    its scale: to thirty prompts of ours, or to those of a file (.txt with one on each line, .jsonl with `prompt`)."""
    neutral: int | str | None = None
    """Capture neutral texts too, which show what the adapter changes beyond its task: a number of texts of 128 tokens
    that the base writes itself, or a file of texts. They count in none of the run's own numbers."""
    allow_zero: bool = False
    """Allow an adapter with an all-zero lora_B, which was never trained."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""

    def __post_init__(self) -> None:
        """Turn single strings into tuples, and raise ValueError if a setting isn't allowed."""
        for name in ("adapter", "data", "component", "prompt", "examples"):
            if isinstance(getattr(self, name), str):  # a single string stands for a tuple of one
                object.__setattr__(self, name, (getattr(self, name),))
        self._check_names()
        self._check_choices()
        _require_at_least(self, 0, "seed", "generate", "answer_tokens", "importance", "null_adapters")
        _require_at_least(self, 1, "limit", "batch_tokens", "tensor_parallel")
        _require_at_least(self, 2, "window_tokens")
        if not isinstance(self.neutral, str):
            _require_at_least(self, 1, "neutral")
        for name, most in (("neutral", 10_000), ("null_adapters", 1000)):  # each null's B is in memory
            if isinstance(value := getattr(self, name), int) and value > most:
                raise ValueError(f"`{name}` is {value!r}; give at most {most}")
        for name in ("budget", "queue"):
            if getattr(self, name) is not None:
                parse_size(getattr(self, name))
        for name in ("js_share", "kl_share", "ablate_share", "states_share"):
            if (share := getattr(self, name)) is not None and not 0 < share <= 1:
                raise ValueError(f"`{name}` is {share!r}; it must be above 0 and at most 1")

    @property
    def adapters(self) -> dict[str, str]:
        """Dict of adapter name -> folder; an adapter that is given without a name is called `default`."""
        # A path may hold a `=` too.
        matches = [re.fullmatch(r"(?:([A-Za-z_]\w*)=(?=.))?(.*)", text) for text in self.adapter]
        return {match[1] or "default": match[2] for match in matches if match is not None}

    @property
    def loading(self) -> dict[str, Any]:
        """Keyword arguments of `load_model` that these settings decide, all except the device."""
        return {name: getattr(self, name) for name in LOADING}

    @property
    def is_split(self) -> bool:
        """Whether the model that is loaded has its weights split over processes."""
        return self.tensor_parallel > 1 or self.fully_shard

    @property
    def queue_bytes(self) -> int | None:
        """Largest number of bytes of finished rows that may wait to be written; None to derive it from the batches."""
        return None if self.queue is None else parse_size(self.queue)

    def _check_names(self) -> None:
        """Raise ValueError if data, prompts or adapters aren't named, or adapters don't fit the stream."""
        if not self.data:
            raise ValueError("`data` is empty; name at least one file of samples")
        if not self.prompt:
            raise ValueError("`prompt` is empty; name at least one, such as 'main'")
        if not self.adapter:
            raise ValueError("`adapter` is empty; name the folder of a LoRA adapter")
        if len(self.adapters) < len(self.adapter):
            raise ValueError(f"`adapter` is {self.adapter!r}; give each of several a name of its own: `name=folder`")
        for text in self.adapter:
            name, sign, folder = text.partition("=")
            if sign and not Path(text).exists() and Path(folder).exists() and not name.isidentifier():
                raise ValueError(
                    f"`adapter` is {text!r}; a name has letters, digits and `_`, and doesn't begin with a digit"
                )
        if self.stream != "base" and len(self.adapter) > 1:
            raise ValueError(
                f"`adapter` names {len(self.adapter)} adapters; stream {self.stream!r} takes one, 'base' takes several"
            )

    def _check_choices(self) -> None:
        """Raise ValueError if a setting isn't one of its allowed values, or two settings contradict each other."""
        parse_choice(self.tokens)
        for setting in fields(self):
            value = getattr(self, setting.name)
            if get_origin(setting.type) is Literal:
                require_choice(setting.name, value, get_args(setting.type))
        ways = {
            "device_map": self.device_map,
            "tensor_parallel": self.tensor_parallel if self.tensor_parallel > 1 else None,
            "fully_shard": self.fully_shard or None,
        }
        if len(chosen := {name: way for name, way in ways.items() if way is not None}) > 1:
            both = " and ".join(f"`{name}` is {way!r}" for name, way in chosen.items())
            raise ValueError(f"{both}, but a model is spread over devices in one way; give one of them")
        if self.ablate is not None:
            require_choice("ablate", self.ablate, ABLATE)
        if self.ablate is not None and self.stream == "base":
            raise ValueError(
                f"`ablate` is {self.ablate!r}, but in stream 'base' no adapter is on, so that none of its parts can be "
                "switched off; take stream 'adapted' or 'pair', or leave `ablate` out"
            )
        check_sharing(self.share, self.shared_layers, self.share_from)
        if self.budget is not None and self.tokens != "all":
            raise ValueError(f"`budget` chooses the tokens, but `tokens` is {self.tokens!r}; give one of them")
        if self.answer_tokens and not self.score:
            raise ValueError(
                f"`answer_tokens` is {self.answer_tokens}, but `score` is off, and answers are part of the scores; "
                "turn one of them off"
            )
        if self.tokens == "generated" and not self.generate:
            raise ValueError("`tokens` is 'generated', but `generate` is 0; give the number of tokens to generate")


def _require_at_least(config: object, least: int, *names: str) -> None:
    """Raise ValueError if one of the settings `names` of `config` is a number below `least`; None is allowed."""
    for name in names:
        if (value := getattr(config, name)) is not None and value < least:
            raise ValueError(f"`{name}` is {value!r}; give at least {least}")
