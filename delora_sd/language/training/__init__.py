"""Fine-tuning through the Trainer of transformers."""
