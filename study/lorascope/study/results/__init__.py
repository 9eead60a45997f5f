"""A study's results: read, laid out as the paper's tables, tested and fitted."""
