"""Text: tokenizers and encoders."""
