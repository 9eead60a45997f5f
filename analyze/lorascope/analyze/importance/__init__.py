"""Importance of components for the next token: ablation, and the measures compared with it."""
