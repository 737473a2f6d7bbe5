"""Semantic maps to images (the paper's Table 2): a room of its own that uses the house; nothing below knows of it."""
