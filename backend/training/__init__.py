"""How the project trains its demo checkpoints."""
