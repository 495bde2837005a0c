"""Updates of our own making, and what must be read from them."""
