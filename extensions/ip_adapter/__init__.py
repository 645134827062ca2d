"""IP-Adapters: pictures as prompts."""
