"""Plain LoRA files of any tool: their key names, read and written."""
