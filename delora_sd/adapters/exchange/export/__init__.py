"""Adapters, alone or several as one, written for other tools."""
