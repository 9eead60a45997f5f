from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import BertConfig, BertModel, GenerationConfig, GPT2Config, GPT2LMHeadModel

from lorascope.capture.samples.encode import CHOICE, GENERATED, PROMPT, EncodedSample
from lorascope.capture.samples.generate import generate

N = 8


def gpt2(vocab_size: int) -> Any:
    shape = {"vocab_size": vocab_size, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
    config = GPT2Config(**shape, initializer_range=0.2, bos_token_id=0, eos_token_id=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPT2LMHeadModel(config).eval()


def prompts_of(samples: list[EncodedSample]) -> list[np.ndarray]:
    return [sample.token_ids[: sample.n_context] if sample.choices else sample.token_ids for sample in samples]


def by_hand(model: Any, prompt: np.ndarray) -> list[int]:
    """New tokens from the definition: whole sequences, the largest logit, until a text ends."""
    ids = prompt.tolist()
    with torch.inference_mode():
        for _ in range(N):
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
            if ids[-1] == 1:
                break
    return ids[len(prompt) :]


@pytest.mark.parametrize(("architecture", "batch_tokens"), [("llama", 250), ("llama", 1), ("gpt2", 100_000)])
def test_tokens_are_those_of_the_definition(
    architecture: str,
    batch_tokens: int,
    tiny_model: Any,
    tiny_tokenizer: Any,
    samples: list[EncodedSample],
    text_samples: list[EncodedSample],
) -> None:
    model = tiny_model if architecture == "llama" else gpt2(len(tiny_tokenizer))
    mixed = [*samples[:3], *text_samples, *samples[3:]]
    prompts = prompts_of(mixed)
    assert len({len(prompt) for prompt in prompts}) > 3  # so that batches are padded
    found = generate(model, mixed, n=N, batch_tokens=batch_tokens)
    written = [one.token_ids[len(prompt) :].tolist() for one, prompt in zip(found, prompts, strict=True)]
    assert written == [by_hand(model, prompt) for prompt in prompts]
    assert len({tuple(tokens) for tokens in written}) > 1


def test_prompts_stay_and_new_tokens_have_their_role(
    tiny_model: Any, samples: list[EncodedSample], text_samples: list[EncodedSample]
) -> None:
    mixed = [*samples, *text_samples]
    calls: list[tuple[int, int]] = []
    found = generate(tiny_model, mixed, n=3, batch_tokens=1, progress=lambda *call: calls.append(call))
    assert calls == [(place + 1, len(mixed)) for place in range(len(mixed))]
    for prompt, before, after in zip(prompts_of(mixed), mixed, found, strict=True):
        n = len(prompt)
        np.testing.assert_array_equal(after.token_ids[:n], prompt)
        np.testing.assert_array_equal(after.roles[:n], before.roles[:n])
        assert 1 <= len(after.token_ids) - n <= 3
        assert set(after.roles[n:]) == {GENERATED}
        assert (after.token_ids.dtype, after.roles.dtype) == (np.int64, np.uint8)
        kept = ("id", "choices", "answer", "prompt")
        assert [getattr(after, name) for name in kept] == [getattr(before, name) for name in kept]
        if before.choices:
            assert set(after.roles) == {PROMPT, CHOICE, GENERATED}


def test_a_text_that_ends_keeps_its_end_as_last_token(tiny_model: Any, samples: list[EncodedSample]) -> None:
    free = generate(tiny_model, samples, n=N, batch_tokens=10_000)
    prompts = prompts_of(samples)
    written = [one.token_ids[len(prompt) :].tolist() for one, prompt in zip(free, prompts, strict=True)]
    # What one sample writes third ends texts from now on, beside a token that nothing writes.
    end, unused = written[0][2], next(i for i in range(250) if not any(i in tokens for tokens in written))
    tiny_model.generation_config.eos_token_id = [unused, end]
    ended = generate(tiny_model, samples, n=N, batch_tokens=10_000)
    cut = [tokens[: tokens.index(end) + 1] if end in tokens else tokens for tokens in written]
    assert [one.token_ids[len(prompt) :].tolist() for one, prompt in zip(ended, prompts, strict=True)] == cut
    assert len(cut[0]) < N
    assert {len(tokens) for tokens in cut} != {len(cut[0])}


def test_the_configurations_end_counts_where_no_other_is_given(tiny_model: Any, samples: list[EncodedSample]) -> None:
    first = generate(tiny_model, samples[:1], n=1, batch_tokens=1000)[0].token_ids[-1]
    tiny_model.generation_config = GenerationConfig()
    for end, n_written in ((int(first), 1), (None, N)):
        tiny_model.config.eos_token_id = end
        (found,) = generate(tiny_model, samples[:1], n=N, batch_tokens=1000)
        assert len(found.token_ids) == len(prompts_of(samples)[0]) + n_written


def test_settings_of_a_checkpoint_are_left_out_and_left_as_they_were(
    tiny_model: Any, samples: list[EncodedSample]
) -> None:
    expected = generate(tiny_model, samples, n=N, batch_tokens=500)
    others = {"do_sample": True, "temperature": 0.7, "repetition_penalty": 5.0, "num_beams": 3, "max_length": 9}
    tiny_model.generation_config = own = GenerationConfig(**others, eos_token_id=1)
    state = torch.random.get_rng_state()
    for one, other in zip(generate(tiny_model, samples, n=N, batch_tokens=500), expected, strict=True):
        np.testing.assert_array_equal(one.token_ids, other.token_ids)
    assert tiny_model.generation_config is own
    assert torch.equal(torch.random.get_rng_state(), state)
    tiny_model.model.layers[0].mlp.forward = None  # whatever goes wrong inside
    with pytest.raises(TypeError):
        generate(tiny_model, samples, n=N, batch_tokens=500)
    assert tiny_model.generation_config is own


def test_an_adapter_counts_where_it_is_active(tiny_model: Any, tiny_adapter: Any, samples: list[EncodedSample]) -> None:
    bare = [one.token_ids.tolist() for one in generate(tiny_model, samples, n=N, batch_tokens=500)]
    model = PeftModel.from_pretrained(tiny_model, tiny_adapter).eval()
    adapted = [one.token_ids.tolist() for one in generate(model, samples, n=N, batch_tokens=500)]
    prompts = prompts_of(samples)
    assert adapted == [prompt.tolist() + by_hand(model, prompt) for prompt in prompts]
    assert adapted != bare
    with model.disable_adapter():
        assert [one.token_ids.tolist() for one in generate(model, samples, n=N, batch_tokens=500)] == bare


def test_the_context_is_respected(
    tiny_model: Any, samples: list[EncodedSample], text_samples: list[EncodedSample]
) -> None:
    longest = max(len(prompt) for prompt in prompts_of(samples))
    tiny_model.config.max_position_embeddings = longest + 2
    assert generate(tiny_model, samples, n=2, batch_tokens=1000)
    words = f"prompt of {longest} tokens and 3 new ones don't fit the context of {longest + 2}; .* shorter prompts"
    with pytest.raises(ValueError, match=words):
        generate(tiny_model, samples, n=3, batch_tokens=1000)
    tiny_model.config.max_position_embeddings = 16
    with pytest.raises(ValueError, match="sample 't:0': its window of 16 tokens and 1 new ones .* shorter windows"):
        generate(tiny_model, text_samples, n=1, batch_tokens=1000)
    tiny_model.config.max_position_embeddings = 0  # a model that states no limit
    assert generate(tiny_model, text_samples, n=1, batch_tokens=1000)


def test_refuses_what_makes_no_sense(tiny_model: Any, samples: list[EncodedSample]) -> None:
    with pytest.raises(ValueError, match="`samples` is empty; give at least one"):
        generate(tiny_model, [], n=1, batch_tokens=1000)
    with pytest.raises(ValueError, match="`n` is 0; give at least 1 new token"):
        generate(tiny_model, samples, n=0, batch_tokens=1000)
    encoder = BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8))
    with pytest.raises(ValueError, match="a BertModel can't generate text; capture without `generate`"):
        generate(encoder.eval(), samples, n=1, batch_tokens=1000)
    with pytest.raises(ValueError, match=r"in training mode.* call `model.eval\(\)` first"):
        generate(tiny_model.train(), samples, n=1, batch_tokens=1000)


def test_refuses_logits_that_are_no_numbers(tiny_model: Any, samples: list[EncodedSample]) -> None:
    # Those of a token that stands in the second prompt alone: its neighbours in the batch are sound.
    others = {token for place, sample in enumerate(samples) if place != 1 for token in sample.token_ids.tolist()}
    broken = next(token for token in prompts_of(samples)[1].tolist() if token not in others)
    tiny_model.model.embed_tokens.weight.data[broken] = torch.nan
    with pytest.raises(ValueError, match="^sample 'b': what the model writes can't be told, its logits aren't numbers"):
        generate(tiny_model, samples, n=2, batch_tokens=10_000)
