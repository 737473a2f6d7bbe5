"""What to train: presets, plans, what they will cost, and how far a run is."""
