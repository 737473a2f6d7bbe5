"""PEFT's folders and methods."""
