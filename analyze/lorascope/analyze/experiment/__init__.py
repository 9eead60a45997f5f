"""A study's results: read, laid out as the paper's tables and figures, and held against its claims."""
