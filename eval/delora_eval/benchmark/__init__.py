"""The benchmark: a grid of cells, each trained, generated and scored, then a report. It calls stages, never models."""
