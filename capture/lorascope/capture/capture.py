"""Capture: one model, one adapter, its data, into one run."""

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from lorascope.stores import Adapter, Component, Run, RunSpec, create_run, open_run
from lorascope.stores.create import refuse_used
from lorascope.stores.layout import DTYPES, ROW_TOKENS, worth_factoring

from .adapter import adapter_identity, attach_adapter, require_folder
from .batches import plan_batches
from .components import find_components, lora_b, require_supported
from .config import CaptureConfig
from .encode import EncodedSample, encode_items
from .hooks import Recorder, Wrapped
from .items import Item, read_items
from .model import context_length, load_model, model_identity, tokenizer_identity
from .preflight import lora_layers, require_adapter
from .prompt import CUE, INSTRUCTION
from .provenance import data_fingerprint, device_description, fingerprint, library_versions
from .rows import RowQueue
from .scoring import Scores, score
from .selection import TokenPlan, plan_tokens
from .stream import Progress, evaluating, forward_seconds, probe, stream_states
from .tables import make_tables

__all__ = ["capture"]

ProgressCallback = Callable[[Progress], None]

CPU_SHARE = 1 / 64
"""Share of tokens whose js is measured on a CPU: about 2 % of the forward pass's time."""


def capture(
    config: CaptureConfig, *, model: Any = None, tokenizer: Any = None, progress: ProgressCallback | None = None
) -> Run:
    """Capture base states and deltas of every LoRA-wrapped layer into a new run, and open it.

    Parameters
    ----------
    config
        What to capture, from where and to where.
    model, tokenizer
        A `PeftModel` and its tokenizer, already loaded, instead of those that `config` names. The model's training
        mode and requires_grad flags are afterwards as they were.
    progress
        Called with a `Progress` after every batch.

    Raises
    ------
    StoreError
        If `config.out` isn't new or empty.
    AdapterError
        If the adapter doesn't fit the model, is untrained, merged or disabled, or isn't of a supported kind.
    ValueError, FileNotFoundError
        If the model or a data file can't be read, or a sample can't be captured as it is.
    CaptureError
        If a hook doesn't fire exactly once a pass, or a layer's output isn't its base plus delta.
    OSError
        If the disk is full or fails; rows committed until then stay readable.

    Notes
    -----
    Nothing is written before all checks have passed and every choice is scored.
    """
    refuse_used(Path(config.out))
    _require_writable(Path(config.out))
    files = _read(config)
    device = _device(config.device)
    if model is None:
        require_folder(config.adapter)  # before minutes of loading
        model, tokenizer = load_model(
            config.model, dtype=config.dtype, device=str(device), trust_remote_code=config.trust_remote_code
        )
        # Before the adapter: PiSSA and its like change the base weights while they are attached.
        identity = model_identity(model, config.model)
        model = attach_adapter(model, config.adapter, allow_zero=config.allow_zero)
    else:
        device = _where(model)  # a model that is loaded stays where it is
        identity = model_identity(model, config.model)
    name = require_adapter(model, allow_zero=config.allow_zero)
    require_supported(model, name)
    with evaluating(model):
        return _capture(config, _Loaded(model, tokenizer, name, device, identity), files, progress)


class _Loaded(NamedTuple):
    model: Any
    tokenizer: Any
    adapter: str
    device: torch.device
    identity: dict[str, Any]
    """Of the base model."""


def _capture(
    config: CaptureConfig, loaded: _Loaded, files: Mapping[str, Sequence[Item]], progress: ProgressCallback | None
) -> Run:
    model, tokenizer, adapter, device, _ = loaded
    samples, omitted = _encode(config, loaded, files)
    share = config.js_share if config.js_share is not None else 1.0 if device.type == "cuda" else CPU_SHARE
    batches = plan_batches([len(sample.token_ids) for sample in samples], batch_tokens=config.batch_tokens)
    plan = plan_tokens(samples, batches, config.tokens, js_share=share, seed=config.seed)
    wrapped = _wrap(model, adapter)
    dtypes = probe(model, Recorder(wrapped, adapter), samples[0], device)
    spec = _specify(config, loaded, samples, plan, dtypes)
    wrapped = [w._replace(factor_start=start) for w, start in zip(wrapped, spec.adapters[0].factor_start, strict=True)]
    scores = _score(config, model, samples, progress)
    spec = dataclasses.replace(spec, attributes=_provenance(config, loaded, samples, share, omitted))
    texts = tokenizer.batch_decode(
        [[int(t)] for s, p in zip(samples, plan.positions, strict=True) for t in s.token_ids[p]]
    )
    weights = {f"adapters/{adapter}/lora_B/{w.path}": w.lora_B.cpu().numpy() for w in wrapped if w.factor_start >= 0}
    recorder = Recorder(wrapped, adapter)
    with create_run(config.out, spec, tables=make_tables(samples, plan, texts, *scores), weights=weights) as writer:
        n_buffers = min(_rows_spanned(plan, batches) + 1, spec.n_rows)
        with RowQueue(writer, n_buffers=n_buffers, n_tokens=plan.n_tokens, pinned=device.type == "cuda") as rows:
            start = time.perf_counter()
            seconds = stream_states(model, recorder, samples, plan, batches, rows, device=device, progress=progress)
            total = time.perf_counter() - start
        writer.finish(
            _measurements(recorder, rows, seconds, total, forward_seconds(model, samples[batches[-1]], device))
        )
    return open_run(config.out)


def _read(config: CaptureConfig) -> dict[str, list[Item]]:
    """Items by file."""
    files: dict[str, list[Item]] = {path: [*read_items(path)] for path in config.data}
    if len(files) < len(config.data):
        raise ValueError(f"`data` names a file twice: {list(config.data)}")
    owners: dict[tuple[str, str, str], str] = {}
    for path, items in files.items():
        for item in items:
            first = owners.setdefault((item.dataset, item.split, item.id), path)
            if first != path:
                raise ValueError(f"item {item.id!r} of {item.dataset!r} stands in both {first!r} and {path!r}")
    return files


def _encode(
    config: CaptureConfig, loaded: _Loaded, files: Mapping[str, Sequence[Item]]
) -> tuple[list[EncodedSample], dict[str, int]]:
    """Samples of all files, and by file how many items (windows, for text) the limit left out."""
    length = context_length(loaded.model) or sys.maxsize
    samples: list[EncodedSample] = []
    omitted: dict[str, int] = {}
    for path, items in files.items():
        found = encode_items(items, loaded.tokenizer, max_length=length, window_tokens=config.window_tokens)
        samples += found[: config.limit]
        if len(found) > len(found[: config.limit]):
            omitted[path] = len(found) - len(found[: config.limit])
    return samples, omitted


def _require_writable(out: Path) -> None:
    """Raise before any work if the run's folder couldn't be made."""
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        what = "can't be written to" if parent.is_dir() else "is a file"
        raise ValueError(f"`out` is {str(out)!r}, but `{parent}` {what}; name another place")


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"`device` is {name!r}; allowed are 'auto', 'cpu', 'cuda', 'cuda:0' ...") from error


def _wrap(model: Any, adapter: str) -> list[Wrapped]:
    modules: dict[str, Any] = dict(lora_layers(model))
    return [
        Wrapped(
            path=component.path,
            module=modules[component.path],
            lora_B=torch.from_numpy(lora_b(modules[component.path], adapter)).to(_where(modules[component.path])),
            scaling=component.scaling,
            factor_start=0,
        )
        for component in find_components(model, adapter)
    ]


def _where(module: torch.nn.Module) -> torch.device:
    return next(module.parameters()).device


def _specify(
    config: CaptureConfig,
    loaded: _Loaded,
    samples: Sequence[EncodedSample],
    plan: TokenPlan,
    dtypes: dict[str, torch.dtype],
) -> RunSpec:
    found = find_components(loaded.model, loaded.adapter)
    narrow = "bfloat16" if config.store == "bf16" else None
    components = tuple(
        Component(
            path=c.path,
            kind=c.kind,
            layer=c.layer,
            d_in=c.d_in,
            d_out=c.d_out,
            dtype=str(dtypes[c.path]).removeprefix("torch."),
            stored_dtype=narrow or str(dtypes[c.path]).removeprefix("torch."),
            fused=c.fused,
        )
        for c in found
    )
    itemsizes = [DTYPES[c.stored_dtype][0].itemsize for c in components]
    adapter = Adapter(
        name=loaded.adapter,
        rank=tuple(c.rank for c in found),
        scaling=tuple(c.scaling for c in found),
        factored=tuple(
            worth_factoring(rank=c.rank, d_out=c.d_out, itemsize=size) for c, size in zip(found, itemsizes, strict=True)
        ),
    )
    return RunSpec(
        stream="adapted",
        components=components,
        adapters=(adapter,),
        n_tokens=plan.n_tokens,
        n_samples=len(samples),
        n_choices=sum(len(sample.choices) for sample in samples),
    )


def _score(
    config: CaptureConfig, model: Any, samples: Sequence[EncodedSample], progress: ProgressCallback | None
) -> tuple[Scores | None, Scores | None]:
    """Scores with and without the adapter, before any hook is on."""
    if not config.score:
        return None, None

    def report(stage: str) -> Callable[[int, int], None] | None:
        if progress is None:
            return None
        return lambda done, total: progress(Progress(stage, done, total, "choice"))

    adapted = score(model, samples, batch_tokens=config.batch_tokens, progress=report("score"))
    with model.disable_adapter():
        base = score(model, samples, batch_tokens=config.batch_tokens, progress=report("score base"))
    return adapted, base


def _provenance(
    config: CaptureConfig, loaded: _Loaded, samples: Sequence[EncodedSample], share: float, omitted: dict[str, int]
) -> dict[str, Any]:
    settings = dataclasses.asdict(config)
    identity = {
        "model": loaded.identity,
        "adapter": adapter_identity(loaded.model, loaded.adapter),
        "data": data_fingerprint(samples),
        "settings": {key: value for key, value in settings.items() if key not in {"out", "model", "adapter", "data"}},
        "js_share": share,
    }
    return {
        "fingerprint": fingerprint(identity),
        "provenance": {
            **identity,
            "settings": settings,
            "tokenizer": tokenizer_identity(loaded.tokenizer),
            "prompt": {"name": "main", "instruction": INSTRUCTION, "cue": CUE},
            "libraries": library_versions(),
            "device": device_description(loaded.device),
            "omitted_items": omitted,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        },
    }


def _rows_spanned(plan: TokenPlan, batches: Sequence[slice]) -> int:
    """Most rows that one batch reaches into."""
    first = plan.starts[[batch.start for batch in batches]] // ROW_TOKENS
    last = (plan.starts[[batch.stop for batch in batches]] - 1) // ROW_TOKENS
    return int(np.max(last - first)) + 1


def _measurements(
    recorder: Recorder, rows: RowQueue, seconds: Sequence[float], total: float, bare: float
) -> dict[str, Any]:
    """What only the finished pass knows: time, size, and what rounding did."""
    return {
        "measured": {
            "seconds": total,
            "seconds_waiting_for_disk": rows.seconds_waited,
            "seconds_last_batch": seconds[-1],
            "seconds_last_batch_bare": bare,
            "raw_bytes": rows.raw_bytes,
            "stored_bytes": rows.stored_bytes,
            "buffer_bytes": rows.n_bytes,
            "swallowed_share": {
                path: record.n_swallowed / record.n_features for path, record in recorder.measured.items()
            },
            "worst_excess": max(record.worst_excess for record in recorder.measured.values()),
        }
    }
