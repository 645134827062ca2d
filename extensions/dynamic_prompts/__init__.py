"""Prompts with words to be filled in: wildcards and variants, drawn by the seed or all of them."""
