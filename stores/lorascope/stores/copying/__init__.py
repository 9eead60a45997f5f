"""A run into another: `pull` a part of it, `compact` it."""
