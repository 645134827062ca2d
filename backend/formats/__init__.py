"""What a model file is, read from its header; no torch."""
