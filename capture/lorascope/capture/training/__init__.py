"""An adapter trained, gone on with where it was stopped, and MIUB meanwhile."""
