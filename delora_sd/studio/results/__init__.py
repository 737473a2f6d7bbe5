"""What came out: checkpoints and their scores, images, files to take away. Reading only."""
