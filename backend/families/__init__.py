"""What belongs together: networks, latent format, text stack, defaults."""
