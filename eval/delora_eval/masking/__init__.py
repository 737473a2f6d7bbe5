"""Masks made by a segmenter; reading them is the maker's (`delora_sd.data.masks`)."""
