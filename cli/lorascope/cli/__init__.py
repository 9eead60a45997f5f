"""The command line: what uses both stages."""
