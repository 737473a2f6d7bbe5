"""Photos of a subject: taken in, looked at, described. Files and pixels, no page."""
