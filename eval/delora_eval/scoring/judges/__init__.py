"""Encoders, their weights and preprocessing, and the protocols that name them."""
