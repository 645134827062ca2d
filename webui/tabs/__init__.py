"""One module a tab: what stands in it, and in which order."""
