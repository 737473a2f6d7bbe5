"""The benchmark: a grid of cells, each trained, generated and scored, then one report. It calls stages, never models."""
