"""What the web process keeps: jobs, pictures, metadata, the model catalog; no torch."""
