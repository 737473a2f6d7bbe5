"""The page itself: rooms, pieces of HTML, curves, and the server that shows them on this machine only."""
