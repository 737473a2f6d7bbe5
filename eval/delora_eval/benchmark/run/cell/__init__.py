"""What is done to a cell: trained with its pack, drawn, scored."""
