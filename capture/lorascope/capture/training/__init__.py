"""Training of an adapter, with checkpoints and with MIUB during the training."""
