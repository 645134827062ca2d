"""X/Y/Z grids over any parameter by name; which values a parameter takes is told by its own schema."""
