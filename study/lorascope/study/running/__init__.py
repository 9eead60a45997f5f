"""Making a study's results: the only part that needs torch."""
