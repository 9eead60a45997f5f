"""Tables of studies: what their columns are, what is said of them, and the paper's own."""
