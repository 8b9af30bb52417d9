"""WHERE IT LASTS: the store protocol, and its implementations beside their SQL."""
