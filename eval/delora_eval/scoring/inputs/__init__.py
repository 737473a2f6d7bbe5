"""What there is to judge."""
