"""Bundled extensions, one folder each."""
