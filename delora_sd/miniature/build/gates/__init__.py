"""What the finished weights must reach, measured."""
