"""A finished run made ready for others: its model card, and the way to the hub."""
