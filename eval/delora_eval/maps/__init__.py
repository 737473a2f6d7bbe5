"""Semantic maps to images, judged: segmenters, accuracies, distances, the benchmark of Table 2 and its page."""
