"""Turns a request into pictures; does not know that a browser exists."""
