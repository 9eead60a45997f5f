"""What `fit` and `compare` share."""
