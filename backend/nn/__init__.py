"""Networks; attribute names are the published checkpoints' keys."""
