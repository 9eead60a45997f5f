"""Replies to short prompts, against transformers' own generation and torch's own likelihoods, and in a run."""

import contextlib
import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer

from lorascope.capture import plan
from lorascope.capture.models.passes import scaled_adapter
from lorascope.capture.models.ranks import ALONE
from lorascope.capture.recording.run_model import all_replies
from lorascope.capture.samples.replies import REPLY_TOKENS, encode_reply_prompts
from lorascope.capture.samples.reply_prompts import MAX_PROMPTS, read_reply_prompts
from lorascope.capture.training.trainer import lora_targets
from lorascope.stores import Run, StoreError, open_run, pull, verify
from lorascope.stores.format.tables import REPLY_COLUMNS

PROMPTS = ["What?", "Name the four, please.", "Où est-ce?"]
SCALES = (0.0, 1.0, 1.5, 2.0)
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]: {{ m['content'] | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]: {% endif %}"
)


def adapted_model(model: Any, *, names: tuple[str, ...] = ("default",), **options: Any) -> Any:
    """The model with adapters of ranks 3, 4, ..., whose B isn't 0."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        adapted = get_peft_model(copy.deepcopy(model), config(model, 3, **options), adapter_name=names[0])
        for rank, name in enumerate(names[1:], start=4):
            adapted.add_adapter(name, config(model, rank, **options))
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter.data, std=0.3)
    return adapted.eval()


def config(model: Any, rank: int, **options: Any) -> LoraConfig:
    return LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=4, target_modules=lora_targets(model), **options)


def at_scale(model: Any, adapter: str, scale: float) -> Any:
    """A copy of the model with this scaling set by hand in every layer, or without its adapters for 0."""
    copied = copy.deepcopy(model)
    if not scale:
        return copied.unload()
    copied.set_adapter(adapter)
    for module in copied.modules():
        if isinstance(module, LoraLayer) and adapter in module.scaling:
            module.scaling[adapter] = module.scaling[adapter] * scale
    return copied


@torch.inference_mode()
def greedy(model: Any, ids: list[int]) -> list[int]:
    """New tokens of transformers' own greedy generation after one prompt."""
    inputs = torch.tensor([ids])
    out = model.generate(
        input_ids=inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=REPLY_TOKENS, do_sample=False
    )
    return [int(token) for token in out[0, len(ids) :]]


@torch.inference_mode()
def loglik(model: Any, prompt: list[int], reply: list[int]) -> float:
    logits = model(input_ids=torch.tensor([prompt + reply])).logits[0].double()
    return float(logits.log_softmax(-1)[range(len(prompt) - 1, len(prompt + reply) - 1), reply].sum())


@pytest.mark.parametrize(("options", "batch_tokens"), [({}, 180), ({"use_dora": True}, 1)], ids=["lora", "dora"])
def test_replies_and_likelihoods_are_those_of_transformers(
    tiny_model: Any, tiny_tokenizer: Any, options: dict[str, Any], batch_tokens: int
) -> None:
    model = adapted_model(tiny_model, names=("one", "two"), **options)
    prompts = encode_reply_prompts(PROMPTS, tiny_tokenizer, 256)
    columns = all_replies(model, tiny_tokenizer, prompts, ("one", "two"), ALONE, None, batch_tokens=batch_tokens)
    assert len(columns) == 18
    for adapter in ("one", "two"):
        names = [column.name for column in REPLY_COLUMNS]
        table = {name: columns[f"adapters/{adapter}/replies/{name}"] for name in names}
        assert table["prompt"].tolist() == [prompt for prompt in PROMPTS for _ in SCALES]
        assert table["scale"].tolist() == [*SCALES] * len(PROMPTS)
        models = {scale: at_scale(model, adapter, scale) for scale in SCALES}
        place = 0
        for prompt in PROMPTS:
            ids = tiny_tokenizer(prompt)["input_ids"]
            for scale in SCALES:
                reply = greedy(models[scale], ids)
                assert table["text"][place] == tiny_tokenizer.decode(reply, skip_special_tokens=True)
                assert table["n_tokens"][place] == len(reply)
                assert table["is_complete"][place] == (reply[-1] == 1)
                for other, name in zip(SCALES, names[-4:], strict=True):
                    assert table[name][place] == pytest.approx(loglik(models[other], ids, reply), rel=2e-6)
                place += 1
        assert len({*table["text"][:4]}) == 4  # scales matter


def test_an_end_completes_a_reply(tiny_model: Any, tiny_tokenizer: Any) -> None:
    model = adapted_model(tiny_model)
    prompts = encode_reply_prompts(PROMPTS, tiny_tokenizer, 256)
    first = greedy(at_scale(model, "default", 1), tiny_tokenizer(PROMPTS[0])["input_ids"])
    assert len(first) == REPLY_TOKENS
    model.get_base_model().generation_config.eos_token_id = [first[5]]
    columns = all_replies(model, tiny_tokenizer, prompts, ("default",), ALONE, None, batch_tokens=500)
    n = first.index(first[5]) + 1
    root = "adapters/default/replies/"
    assert (columns[root + "n_tokens"][1], columns[root + "is_complete"][1]) == (n, 1)
    assert set(columns[root + "is_complete"]) == {0, 1}


def test_scaling_and_adapters_are_restored(tiny_model: Any) -> None:
    model = adapted_model(tiny_model, names=("one", "two"))
    inputs = torch.tensor([[5, 6, 7]])
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    before = [dict(layer.scaling) for layer in layers]
    with torch.inference_mode():
        expected = model(input_ids=inputs).logits
        for scale in SCALES:
            one, two = (at_scale(model, name, scale)(input_ids=inputs).logits for name in ("one", "two"))
            assert not scale or not torch.equal(one, two)
            with scaled_adapter(model, "two", scale):
                assert torch.equal(model(input_ids=inputs).logits, two)
            with contextlib.suppress(KeyboardInterrupt), scaled_adapter(model, "two", scale):
                raise KeyboardInterrupt
            assert [dict(layer.scaling) for layer in layers] == before
            assert torch.equal(model(input_ids=inputs).logits, expected)


def test_prompts_pass_through_the_template_or_are_texts(tiny_tokenizer: Any) -> None:
    plain = encode_reply_prompts(PROMPTS, tiny_tokenizer, 256)
    assert [[*sample.token_ids] for sample in plain.values()] == tiny_tokenizer(PROMPTS)["input_ids"]
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = TEMPLATE
    chats = encode_reply_prompts(PROMPTS, tokenizer, 256)
    assert list(chats) == PROMPTS
    for prompt, sample in chats.items():
        messages = [{"role": "user", "content": prompt}]
        whole = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        assert tokenizer.decode(sample.token_ids) == whole
        assert sample.n_prefix == len(sample.token_ids)
    with pytest.raises(ValueError, match="has 30 tokens; the context has 20"):
        encode_reply_prompts(PROMPTS[:1], tokenizer, 20)
    with pytest.raises(ValueError, match="'xxx' of `replies` makes 4 tokens, which with 40 of a reply don't fit"):
        encode_reply_prompts(["xxx"], tiny_tokenizer, 43)
    assert len(encode_reply_prompts(["xxx"], tiny_tokenizer, 44)) == 1
    tokenizer.chat_template = "{{ raise_exception('no user') }}"
    with pytest.raises(
        ValueError, match="'reply prompt 1': the tokenizer's chat template doesn't take the chat: no user"
    ):
        encode_reply_prompts(PROMPTS, tokenizer, 256)


def test_our_prompts_are_thirty() -> None:
    ours = read_reply_prompts(True)
    assert len(set(ours)) == len(ours) == 30
    assert all(prompt == prompt.strip() and len(prompt) < 60 for prompt in ours)
    assert read_reply_prompts(False) == []


def test_a_users_prompts(tmp_path: Path) -> None:
    lines, records = tmp_path / "mine.txt", tmp_path / "mine.jsonl"
    lines.write_text("One?\r\n\n  Two? \n", encoding="utf-8-sig")
    records.write_text('{"prompt": "One?\\nTwo?", "id": 3}\n\n{"prompt": "Three"}\n')
    assert read_reply_prompts(str(lines)) == ["One?", "Two?"]
    assert read_reply_prompts(str(records)) == ["One?\nTwo?", "Three"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "p.csv",
            "x",
            r"`replies` is '.*p.csv'; name a file in .txt with a prompt on each line or in .jsonl, or no file",
        ),
        ("p.txt", "a\nb\na\n", r"p.txt, line 3: 'a' is on line 1 already; give it once"),
        ("p.txt", " \n", rf"p.txt: it has 0 prompts; give 1 to {MAX_PROMPTS}"),
        ("p.txt", "".join(f"{i}\n" for i in range(MAX_PROMPTS + 1)), rf"p.txt: it has {MAX_PROMPTS + 1} prompts"),
        ("p.jsonl", '{"prompt": "a"}\nb\n', "`.*p.jsonl, line 2` isn't JSON"),
        ("p.jsonl", '{"text": "a"}', r'p.jsonl, line 1: it is .{"text": "a"}.; write {"prompt": '),
        ("p.jsonl", '{"prompt": " "}', r'p.jsonl, line 1: it is .{"prompt": " "}.; write {"prompt": '),
        ("p.jsonl", '["a"]', r'p.jsonl, line 1: it is .\["a"\].; write {"prompt": '),
    ],
)
def test_a_mistake_in_a_file_of_prompts_is_named(tmp_path: Path, name: str, content: str, words: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises((ValueError, StoreError), match=words):
        read_reply_prompts(str(tmp_path / name))
    with pytest.raises(
        FileNotFoundError, match=r"file of prompts '.*none.txt' doesn't exist; name one in .txt or .jsonl"
    ):
        read_reply_prompts(str(tmp_path / "none.txt"))


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "mine.txt").write_text("".join(f"{prompt}\n" for prompt in PROMPTS))
    return str(tmp_path / "mine.txt")


def test_a_run_keeps_them_and_is_the_same_in_all_else(
    make: Any, mine: str, adapted: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    stages: list[tuple[str, int, int]] = []
    run: Run = make(states="none", replies=mine, progress=lambda now: stages.append((now.stage, now.done, now.total)))
    without = make("without.zarr", states="none")
    assert run.attributes["fingerprint"] == without.attributes["fingerprint"]
    assert np.array_equal(run.js().values, without.js().values, equal_nan=True)
    assert ("reply at scale 1.5", 3, 3) in stages
    assert ("score replies at scale 2", 12, 12) in stages
    replies = run.replies()
    prompts = encode_reply_prompts(PROMPTS, tiny_tokenizer, 256)
    columns = all_replies(adapted, tiny_tokenizer, prompts, ("default",), ALONE, None, batch_tokens=1024)
    for name, values in replies.items():
        assert values.values.tolist() == columns[f"adapters/default/replies/{name}"].tolist()
    assert verify(run.path).ok
    pulled = pull(run.path, tmp_path / "part", samples=1)
    assert pulled.replies().identical(replies)
    assert make(states="none").finished  # resumed without them, it is the same capture
    with pytest.raises(StoreError, match="was begun without these `replies`; give the same ones or none"):
        make(states="none", replies=True)
    with pytest.raises(StoreError, match="was begun without these `replies`"):
        make("without.zarr", states="none", replies=mine)


def test_several_adapters_reply_in_turn(make: Any, tiny_model: Any, mine: str) -> None:
    model = adapted_model(tiny_model, names=("one", "two"))
    run: Run = make(model=model, stream="base", replies=mine)
    one, two = run.replies("one"), run.replies("two")
    base = one["scale"].values == 0
    assert one["text"].values[base].tolist() == two["text"].values[base].tolist()
    assert one["loglik_0"].values[base].tolist() == two["loglik_0"].values[base].tolist()
    assert one["text"].values[~base].tolist() != two["text"].values[~base].tolist()
    assert verify(run.path).ok


def test_a_stop_while_they_are_written_leaves_nothing(make: Any, mine: str, tmp_path: Path) -> None:
    def stop(now: Any) -> None:
        if now.stage == "score replies at scale 1":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(replies=mine, progress=stop)
    assert not (tmp_path / "run.zarr/zarr.json").exists()
    assert open_run(make(replies=mine).path).replies().sizes == {"reply": 12}


def test_logits_that_are_no_numbers_are_refused(adapted: Any, tiny_tokenizer: Any) -> None:
    """At 2 times the scale the scaling itself isn't a number of float32 any more."""
    module = adapted.get_submodule("base_model.model.model.layers.1.mlp.down_proj")
    module.scaling["default"] = 2e38
    module.lora_B["default"].weight.data *= 1e-37
    prompts = encode_reply_prompts(PROMPTS, tiny_tokenizer, 256)
    words = r"`replies` at 2 times the scale of adapter 'default': sample 'reply prompt 1': .*aren't numbers"
    with pytest.raises(ValueError, match=words):
        all_replies(adapted, tiny_tokenizer, prompts, ("default",), ALONE, None, batch_tokens=500)
    assert module.scaling["default"] == 2e38


def test_a_plan_counts_them(
    make: Any, tiny_model: Any, tiny_tokenizer: Any, tiny_adapter: Path, data: Path, mine: str, tmp_path: Path
) -> None:
    from lorascope.capture import CaptureConfig
    from lorascope.capture.planning.plan import _reply_tokens

    from ..tiny import save_model

    folder = save_model(tmp_path / "model", tiny_model, tiny_tokenizer)
    settings = {
        "model": str(folder),
        "adapter": (str(tiny_adapter),),
        "data": (str(data),),
        "out": str(tmp_path / "out.zarr"),
    }
    made = plan(CaptureConfig(**settings, replies=mine), probe=False)  # type: ignore[arg-type]
    assert made.spec.n_replies == 12
    assert any("every reply is counted with 40 tokens" in remark for remark in made.remarks)
    assert json.loads(json.dumps(made.as_dict()))["settings"]["replies"] == mine
    prompts = encode_reply_prompts(PROMPTS, tiny_tokenizer, 256).values()
    n = sum(len(prompt.token_ids) for prompt in prompts)
    assert _reply_tokens(list(prompts), 1) == 4 * (n + 120) + 4 * (n + 4 * 120)
    assert plan(CaptureConfig(**settings), probe=False).spec.n_replies == 0  # type: ignore[arg-type]
