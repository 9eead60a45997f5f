"""Singular directions of what an adapter adds to each component, and the words that it makes more likely."""
