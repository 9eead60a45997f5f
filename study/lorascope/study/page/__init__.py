"""A study's results as CSV files and one HTML page."""
