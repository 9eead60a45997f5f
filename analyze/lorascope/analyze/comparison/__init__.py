"""Metrics as predictors of accuracy: correlations within blocks, tests of their difference, decisions."""
