"""A prompt for each region of the picture, on U-Net and MMDiT alike."""
