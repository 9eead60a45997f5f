"""`lorascope verify`."""

from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cyclopts.types import NonNegativeInt

from lorascope.analyze.results.options import is_result
from lorascope.stores.errors import StoreError
from lorascope.stores.reading.require_run import require_store

from ..options import AsJson, Components, RunPath
from ..screen import aside, print_frame, progress_bar, quiet_libraries, say, write_json

if TYPE_CHECKING:
    import xarray as xr

    from lorascope.analyze.against.references import References
    from lorascope.capture.reforward import Reforwarded
    from lorascope.stores import Run, Verdict

CHECKED = {"digests": "checksums", "decode": "checksums, decoding", "statistics": "checksums, decoding, statistics"}
"""Level -> the checks that it makes."""
COMPARED = ["tokens", "slope", "slope_se", "change", "off", "spread", "n_tokens", "n_samples"]
"""Columns of the table of `--against`."""
COLUMNS = (
    "slope is 1 for the adapter and 0 for the base; root mean squares of -log p: change is what the adapter changes, "
    "off how far the target is from it, spread how far the target's two answers differ"
)
"""Line below the table of `--against` that explains its columns."""
EXIT_CODES = {"adapter": 0, "unknown": 3, **dict.fromkeys(("base", "scaled", "partly", "else"), 1)}
"""Verdict of `--against` -> exit code."""
MOST_SHOWN = 200
"""Most problems that are listed; further ones are counted by kind."""


def verify(
    run: RunPath,
    /,
    *,
    component: Components = (),
    level: Literal["digests", "decode", "statistics"] = "statistics",
    reforward: NonNegativeInt = 0,
    against: str | None = None,
    served_model: str | None = None,
    model: str | None = None,
    adapter: tuple[str, ...] = (),
    data: tuple[str, ...] = (),
    prompt: tuple[str, ...] = (),
    examples: tuple[str, ...] = (),
    device: str | None = None,
    trust_remote_code: bool = False,
    seed: NonNegativeInt = 0,
    as_json: AsJson = False,
) -> int:
    """Check a run: checksums, decoding, and whether its numbers look right. Of a saved result, compare every byte.

    With --reforward, some samples are also computed again by the model. The exit code is 1 if anything is wrong.

    With --against, ask whether a merged model or a server still is the run's adapter instead. The exit code is 0 if it
    is, 1 if it is the base, another scale, only a part or something else, and 3 if the run or rounding leaves it
    open.

    Parameters
    ----------
    level
        How much to check; each level includes those before it: `digests` (checksums of every chunk), `decode`
        (decompression), `statistics` (NaN, Inf, zero, constant, blank, repeated vectors and rows).
    reforward
        Also load the model and compute this many random samples again (needs torch).
    against
        Folder of a merged model, in any type or quantised, or a `.gguf` file (needs torch); or address of a server that
        speaks OpenAI's completions, such as vLLM: http://localhost:8000, with a key in `LORASCOPE_API_KEY`.
    served_model
        With --against and a server: name of the model or adapter there, if it has several.
    model
        With --reforward: the model's place, if it has moved; it must be the same model.
    adapter
        With --reforward: the adapters, if they have moved. With --against: name of the adapter, if the run has several.
    data
        With --reforward: the data files, if they have moved.
    prompt
        With --reforward: the prompts, if they have moved; give all of them, in order.
    examples
        With --reforward: the files of examples, if they have moved.
    device
        With --reforward: the device, if it isn't the capture's; with --against: that of the merged model.
    trust_remote_code
        With --reforward or --against: run code that comes with the model.
    seed
        With --reforward: seed of the choice of samples.
    as_json
        Print one JSON object and nothing else: `run`, `sound`, `level`, `n_rows`, `n_committed`, `n_chunks` (checked),
        `problems` (all of them: `place`, `kind`, `message`), `uncovered` (sentences on what no digest covers),
        `reforward` (null without --reforward or if the run is damaged; else `samples`, `n_tokens`, `n_vectors`,
        `n_equal`, `worst`). Of a result: `result`, `run`, `run_fingerprint`, `run_rows`, `sound`, `problems`.
        With --against: `run`, `against`, `verdict` (adapter, base, scaled, partly, else, unknown), `sentence`,
        `not_compared` (sentences), `texts` (of a server, sentences), and numbers: `all`, `roles`, `samples`, `layers`.
    """
    asked = {
        "model": model, "adapter": adapter, "data": data, "prompt": prompt, "examples": examples, "device": device,
        "trust_remote_code": trust_remote_code,
    }  # fmt: skip
    overrides: dict[str, Any] = {name: value for name, value in asked.items() if value}
    if against is not None:
        if not against.strip():
            raise ValueError(f"`--against` is {against!r}; give a folder, a `.gguf` file or a server's address")
        if reforward or component or overrides.keys() - {"adapter", "device", "trust_remote_code"} or len(adapter) > 1:
            allowed = "`--adapter` (one name), `--device`, `--trust-remote-code` and `--json`"
            raise ValueError(f"`--against` compares with another model; with it go {allowed} alone")
        return _compare_with(require_store(run), against, served_model, overrides, as_json=as_json)
    if served_model:
        raise ValueError("`--served-model` is a name on a server; give its address too, `--against http://...`")
    if overrides and not reforward:
        name = next(iter(overrides)).replace("_", "-")
        raise ValueError(f"`--{name}` says how to compute samples again; say how many, as in `--reforward 4`")
    if is_result(run):
        if reforward or component:
            raise ValueError(
                f"`{run}` is a result, whose bytes are compared; `--component` and `--reforward` are for runs"
            )
        return _verify_result(run, as_json=as_json)
    run = require_store(run)
    if reforward:
        from lorascope.capture.settling.inputs import require_inputs, settings_of_run
        from lorascope.stores import open_run

        with suppress(StoreError):  # if the run can't be read, `verify` reports why
            require_inputs(settings_of_run(open_run(run), overrides), writes=False)

    from lorascope.stores import verify as verify_run

    with progress_bar("verify") as update:
        verdict = verify_run(run, level=level, component=component or None, progress=update)
    problems, again = list(verdict.problems), None
    lines = [_summarize_verdict(run, verdict), *verdict.uncovered]
    if component:
        lines.append(f"of components that fit {', '.join(component)}: by the checksum of every chunk")
    if reforward and problems:
        lines.append("nothing was computed again: the stored run is damaged already")
    elif reforward:
        again = _compute_again(run, reforward, seed, overrides)
        problems = again.problems
        lines.append(_summarize_reforward(again))
    if as_json:
        checked = {**verdict._asdict(), "problems": problems}
        computed = None if again is None else {k: v for k, v in asdict(again).items() if k != "problems"}
        write_json({"run": run, "sound": not problems, **checked, "reforward": computed})
        return 1 if problems else 0
    if problems:
        shown, rest = problems[:MOST_SHOWN], Counter(problem.kind for problem in problems[MOST_SHOWN:])
        print_frame([{"kind": problem.kind, "what": problem.message} for problem in shown], "Problems")
        if rest:
            lines.insert(0, f"and {rest.total()} more: {', '.join(f'{n} {kind}' for kind, n in rest.items())}")
    for line in lines:
        say(line)
    return 1 if problems else 0


def _verify_result(result: str, *, as_json: bool) -> int:
    """Compare a saved result with its digests, print whether it is sound, and return the exit code."""
    from lorascope.analyze.results.digests import read_attributes, verify_result

    problems = verify_result(result)
    attributes = {} if problems else read_attributes(Path(result))  # HDF5 may crash on a damaged file
    origin = {name: attributes.get(name, "") for name in ("run", "run_fingerprint", "run_rows")}
    if as_json:
        write_json({"result": result, **origin, "sound": not problems, "problems": problems})
        return 1 if problems else 0
    for problem in problems:
        say(problem.message)
    state = "damaged, or changed by something other than lorascope" if problems else "sound by digests of every byte"
    say(f"{result}, of run {origin['run']}: {state}" if origin["run"] else f"{result}: {state}")
    return 1 if problems else 0


def _summarize_verdict(run: str, verdict: "Verdict") -> str:
    """Return a line on whether a run is sound, with the kinds of checks, and counts of rows and chunks."""
    n_problems = len(verdict.problems)
    state = "sound" if verdict.ok else f"{n_problems} problem{'s' if n_problems > 1 else ''}"
    return (
        f"{run}: {state} by {CHECKED[verdict.level]}; {verdict.n_committed} of {verdict.n_rows} rows committed, "
        f"{verdict.n_chunks} chunks checked"
    )


def _compute_again(run: str, k: int, seed: int, overrides: dict[str, Any]) -> "Reforwarded":
    """Return how `k` random samples of a run, computed again, compare with the stored ones; this imports torch."""
    from lorascope.capture.reforward import reforward

    quiet_libraries()
    with progress_bar("reforward") as update:
        return reforward(
            run, k, seed=seed, overrides=overrides, progress=lambda now: update(now.done, now.total, "", now.stage)
        )


def _summarize_reforward(again: "Reforwarded") -> str:
    """Return a line on how many vectors, computed again by the model, equal the stored ones bit for bit."""
    others = "" if again.n_equal == again.n_vectors else f", the others within {again.worst:.2g} of their size"
    return (
        f"{len(again.samples)} samples computed again: {again.n_equal} of {again.n_vectors} vectors of "
        f"{again.n_tokens} tokens equal bit for bit{others}"
    )


def _compare_with(run: str, target: str, served_model: str | None, options: dict[str, Any], *, as_json: bool) -> int:
    """Print whether a merged model or a server is the adapter of a run, and return the exit code."""
    import pandas as pd  # type: ignore[import-untyped]

    from lorascope.analyze import verify_against
    from lorascope.analyze.against.references import read_references
    from lorascope.stores import open_run

    adapter, opened = next(iter(options.pop("adapter", ())), None), open_run(run)
    is_server = target.lower().startswith(("http://", "https://"))
    if is_server and options:
        raise ValueError(f"`--{next(iter(options)).replace('_', '-')}` is for a merged model; a server has its own")
    if served_model and not is_server:
        raise ValueError(
            f"`--served-model` is a name on a server, but {target!r} isn't the address of one (http://...)"
        )
    references = read_references(opened, adapter)
    if not references.sequences:  # said before minutes of loading or asking
        result = verify_against(opened, lambda *_: [], adapter=adapter)
    elif is_server:
        result = _ask_server(opened, references, target, adapter, served_model)
    else:
        result = _read_merged(opened, target, adapter, options)
    whole = {str(name): value.item() for name, value in result.data_vars.items()}
    rows = {
        name: node.to_dataset().to_dataframe().reset_index().to_dict("records")
        for name, node in result.children.items()
    }
    if as_json:
        write_json({"run": run, "against": target, **result.attrs, "all": whole, **rows})
        return EXIT_CODES[result.attrs["verdict"]]
    say(result.attrs["sentence"])
    parts = pd.DataFrame([{"tokens": "all", **whole}, *({"tokens": row["role"], **row} for row in rows["roles"])])
    heads = {name: name.removeprefix("n_") for name in COMPARED} | {"n_tokens": "number"}
    units = dict.fromkeys(("change", "off", "spread"), "nat")
    print_frame(parts[COMPARED], f"{target} compared with {run}", names=heads, units=units)
    say(COLUMNS)
    for line in [*result.attrs.get("texts", ()), *(f"not compared: {note}" for note in result.attrs["not_compared"])]:
        say(line)
    return EXIT_CODES[result.attrs["verdict"]]


def _read_merged(run: "Run", target: str, adapter: str | None, options: dict[str, Any]) -> "xr.DataTree":
    """Return the verdict on a merged model, which is loaded; this imports torch."""
    from lorascope.analyze import verify_against
    from lorascope.capture import layer_sums, load_model, model_nll
    from lorascope.capture.against import has_other_rules, is_exact, tokenizer_differences
    from lorascope.capture.models.gguf import describe_loading

    if (Path(target).expanduser() / "adapter_config.json").is_file():  # transformers would attach it, others not
        raise ValueError(
            f"{target!r} holds an adapter ('adapter_config.json'), which isn't merged; give a folder without one"
        )
    quiet_libraries()
    say(describe_loading(target), to=aside)
    model, tokenizer = load_model(target, **{"device": "auto", **options})
    differences = tokenizer_differences(tokenizer, run)
    with progress_bar("read tokens") as update:
        result = verify_against(
            run,
            partial(model_nll, model, progress=update),
            adapter=adapter,
            exact=is_exact(model, run) and not target.endswith(".gguf"),
            layers=partial(layer_sums, model, run, adapter=adapter, progress=partial(update, title="layers")),
            differences=differences,
        )
    if not differences and has_other_rules(tokenizer, run):
        note = "how the tokenizer splits texts: its file isn't the run's, though no token with another text was found"
        result.attrs["not_compared"] = [*result.attrs["not_compared"], note]
    if "chat" in run.samples["prompt"].values:
        result.attrs["not_compared"] = [*result.attrs["not_compared"], "the chat template, which a run doesn't keep"]
    return result


def _ask_server(run: "Run", references: "References", url: str, adapter: str | None, name: str | None) -> "xr.DataTree":
    """Return the verdict on a server's model, with attribute `texts`, lines on its tokens of texts and of chats."""
    from lorascope.analyze import verify_against
    from lorascope.analyze.against.served_texts import served_texts
    from lorascope.analyze.against.server import server_nll

    with progress_bar("ask the server") as update:
        texts = served_texts(url, run, references, model=name)
        nll = partial(server_nll, url, model=name, progress=update)
        result = verify_against(run, nll, adapter=adapter, differences=texts.differing)
    if "lm_head" in run.component_paths and result.attrs["verdict"] != "adapter":
        reason = "vLLM leaves what the adapter adds in lm_head out of a prompt's probabilities (its issue 51594)"
        sentence = f"Can't tell: {reason}. Without that: {result.attrs['sentence']}"
        result.attrs |= {"verdict": "unknown", "sentence": sentence}
    not_compared = [*result.attrs["not_compared"], *texts.not_compared]
    result.attrs |= {"texts": [*texts.differing, *texts.equal], "not_compared": not_compared}
    return result
