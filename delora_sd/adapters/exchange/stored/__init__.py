"""Adapters as they lie on disk: formats, where they are found, and what is known of their making."""
