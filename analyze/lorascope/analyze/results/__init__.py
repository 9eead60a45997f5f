"""Results: labelled arrays with errors, files to keep them in, and how their numbers are printed."""
