"""Pieces that the tabs are put together from."""
