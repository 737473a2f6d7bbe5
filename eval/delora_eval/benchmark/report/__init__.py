"""Reporting a benchmark: rows, tables, figures, page."""
