"""What `fit`, `compare` and `audit` share."""
