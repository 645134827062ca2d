"""Turns a browser into requests; never imports torch."""
