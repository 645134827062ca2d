"""Guidance beyond CFG: away from what a weakened network gives, and other ways to combine the branches."""
