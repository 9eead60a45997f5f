"""Expressions that Python's matcher would try for ever are refused, and all others accepted."""

import pytest

from lorascope.stores import expressions
from lorascope.stores.adapter_settings import setting_patterns
from lorascope.stores.expressions import MAX_LENGTH, Pattern, check_patterns

TIME = 0.2
"""Seconds that the matcher has here."""
PARTS = ("", "self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj", "mlp.experts.11.w1", "post_attention_layernorm")
NAMES = [f"{top}model.layers.{i}.{part}" for top in ("", "language_model.") for i in range(30) for part in PARTS]
UNSLOTH = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?"
    r"(?:\bq_proj\b|\bk_proj\b|\bv_proj\b|\bo_proj\b|\bgate_proj\b|\bup_proj\b|\bdown_proj\b).*?)|"
    r"(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|mlp)\.(?:(?:\bq_proj\b|\bk_proj\b|\bdown_proj\b)))"
)


@pytest.fixture(autouse=True)
def short_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expressions, "MAX_SECONDS", TIME)


def check(text: str, *, whole: bool = True) -> None:
    check_patterns([Pattern("`target_modules` is odd", text, whole)], NAMES)


HARMLESS = (
    UNSLOTH,
    r".*\.(q_proj|v_proj)$",
    r"model\.layers\.(1?[0-9]|2[0-7])\..*(q|k|v)_proj",
    r"(layers\.\d+\.)*x",
    r"(?:[a-z_]+\.)+(?:\d+\.)*q_proj",
    r"^(?!.*vision)(?=.*layers).*\.(?:q|v)_proj$",
    r".*(?<!self_)attn.*|(?<=q_)proj",
    r"(?s)(?i:MODEL)\.LAYERS.*|.*",
    r"(?>[a-z]+\.)++x|[\w.]{3,40}?proj",
    "(([a-z._0-9])+)+",  # takes a name at once; only where it can't has it to try
    ".*.*.*q_proj",
    "q_proj",
    "",
    r"(.)\1",
    "(?P<a>.)?(?(a)b|c)",
)


def test_harmless_expressions_are_taken() -> None:
    check_patterns([Pattern(f"`target_modules` is {text!r}", text, True) for text in HARMLESS], NAMES)


@pytest.mark.parametrize(
    "text",
    [
        "(([a-z._0-9])+)+$x",
        "(.+)+x",
        "(?:.*)*x",
        ".*" * 10 + "x",
        "(?=(.+)+x).*",
        r"(?:[a-z_0-9]{1,9}\.?){2,30}x",
    ],
)
def test_expressions_that_may_take_for_ever(text: str) -> None:
    with pytest.raises(ValueError, match=r"^`target_modules` is odd, which may take for ever.* 0\.2 s on 360 na"):
        check(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x" * 200_000, f"the last of 200000 characters; allowed are {MAX_LENGTH} in all"),
        ("([", r"no regular expression \(unterminated character set"),
        ("(" * 2000 + ")" * 2000, r"no regular expression \(nested too deep\); correct it"),
        ("a{99999999999}", r"no regular expression \(the repetition number is too large\)"),
    ],
)
def test_expressions_that_are_not_looked_into(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"^`target_modules` is odd, .*{words}"):
        check(text)


def test_a_mixture_of_experts_has_names_enough_for_an_expression_in_use() -> None:
    experts = [f"model.layers.{layer}.mlp.experts.{one}.down_proj" for layer in range(100) for one in range(128)]
    check_patterns([Pattern("`target_modules`", UNSLOTH, True)], experts)


def test_a_rank_of_its_own_for_each_layer_is_nothing_to_try() -> None:
    """As EVA's init writes them; an expression among them is still looked at."""
    names = [f"model.layers.{layer}.self_attn.{one}_proj" for layer in range(126) for one in "qkvogud"]
    settings = {"rank_pattern": dict.fromkeys(names, 8)}
    check_patterns(setting_patterns(settings, "of it"), [f"base_model.{name}.parametrizations" for name in names])
    with pytest.raises(ValueError, match="for ever"):
        check_patterns(setting_patterns({"rank_pattern": settings["rank_pattern"] | {"(.+)+x": 1}}, "of it"), names)


def test_all_expressions_together_are_bounded() -> None:
    """Each of them is harmless alone."""
    text = ".*.*x"
    check(text)
    with pytest.raises(ValueError, match=r"^one of many, which may take for ever.*it and those before"):
        check_patterns([Pattern("one of many", f"{text}{i}") for i in range(2000)], NAMES)
