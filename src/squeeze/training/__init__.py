"""Training of compressed models: packed text, losses in chunks, one loop that can be killed and goes on."""
