"""From photos to adapter files: the recipe, the loop, checkpoints, previews and the record of a run."""
