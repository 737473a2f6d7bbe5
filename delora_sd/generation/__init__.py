"""Images of a subject from its adapter: what is asked for, minus what is on disk, drawn."""
