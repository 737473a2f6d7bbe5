"""The adapter family: exact low-rank factors, attached to a base, merged, saved, loaded and exported."""
