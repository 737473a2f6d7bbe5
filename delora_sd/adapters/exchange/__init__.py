"""Adapters in and out: formats, exports, merges."""
