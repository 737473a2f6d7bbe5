"""The judge: encoders, metrics, protocols, scores, benchmark and report. It may import the maker, never the reverse."""
