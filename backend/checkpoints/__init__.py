"""From a file to modules."""
