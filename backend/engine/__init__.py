"""All mutable state: device, memory, models, pipeline."""
