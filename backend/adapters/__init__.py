"""Adapters (the LoRA family): recognised, mapped to our parameters, put into the weights and taken out again."""
