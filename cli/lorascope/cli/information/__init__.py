"""Mutual information on the terminal: few columns, and a line that says what they mean."""
