"""A study: a grid of fine-tunings and captures from one file, and what comes of it."""
