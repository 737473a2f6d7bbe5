"""What a training leaves behind: its manifest, events, checkpoints, previews, and the check of its exports."""
