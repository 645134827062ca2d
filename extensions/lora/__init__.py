"""LoRAs and their kin by tags in prompts: the syntax that A1111's users know; the mechanism is the backend's."""
