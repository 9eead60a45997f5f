"""The demo's multiple-choice items, made from tables of facts: how to make them and where they lie."""

from .files import facts_path
from .generate import make_items

__all__ = ["facts_path", "make_items"]
