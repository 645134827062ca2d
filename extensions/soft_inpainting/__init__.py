"""Inpainting by degrees: how much each place may change follows the mask."""
