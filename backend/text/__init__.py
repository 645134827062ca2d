"""From a prompt to conditioning."""
