"""One training of each network."""
