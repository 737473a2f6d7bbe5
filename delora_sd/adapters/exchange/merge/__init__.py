"""What an adapter on disk does to the weights of a base, for a while or for good."""
