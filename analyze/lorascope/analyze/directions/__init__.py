"""Singular directions of what an adapter adds to each component, and how they overlap with others."""
