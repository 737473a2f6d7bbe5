"""The best checkpoint of a run, chosen honestly: on images and prompts that no report is made of."""
