"""What a benchmark will cost, and how far it is. Nothing here works on a cell."""
