"""Laws of regions on tiny networks, and whole pictures on tiny checkpoints of both families."""
