"""Stable Diffusion as frozen parts: which base, how it loads, what is cached, what is optimised."""
