"""The judge's commands and checks."""
