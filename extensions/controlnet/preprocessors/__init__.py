"""Preprocessors that need no weights: pure functions from a picture to a hint."""
