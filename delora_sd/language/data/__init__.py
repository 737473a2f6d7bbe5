"""What language models are fine-tuned on: GLUE and instructions."""
