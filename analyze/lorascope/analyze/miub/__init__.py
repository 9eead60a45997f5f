"""MIUB: token measures reduced to samples, components, groups and several runs."""
