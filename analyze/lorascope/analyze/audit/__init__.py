"""What a published table can be checked for without its data."""
