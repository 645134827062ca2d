"""For authors of extensions: tiny engines of both families, a conformance check, a pytest plugin; not for a run."""
