"""Noise: which a base was trained under, what is trained of it, and the solver that takes it away again."""
