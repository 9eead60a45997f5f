"""Mutual information of base and lora: estimates, and what a Jensen-Shannon divergence says about it."""
