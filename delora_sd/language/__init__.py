"""Language models with the same adapters: attaching, data, training. Knows nothing of images."""
