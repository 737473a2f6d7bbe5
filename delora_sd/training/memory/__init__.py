"""How much memory a training takes, and how many adapters fit."""
