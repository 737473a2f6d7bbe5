"""Trains and measures the weights of the miniature."""
