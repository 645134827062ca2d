"""Samplers and schedules beyond the core's."""
