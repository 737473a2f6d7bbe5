"""Colours and pens."""
