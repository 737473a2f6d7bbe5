"""MaSC (arXiv 2605.22469): subject and prompt apart, by masks over SigLIP 2's patches."""
