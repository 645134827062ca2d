"""Short prompts made longer, by rules or by a language model of the user's own; nothing is asked of another machine."""
