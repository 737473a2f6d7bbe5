"""Methods with exact low-rank factors: mathematics, layers, packs."""
