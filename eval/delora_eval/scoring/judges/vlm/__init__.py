"""Judges that are asked: any vision-language model that transformers loads, its answers kept."""
