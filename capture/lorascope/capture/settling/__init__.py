"""Everything that is decided before the first row: inputs, model, samples, layout of the run, and how fast it is."""
