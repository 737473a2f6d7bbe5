"""The studio: a page for people with photos. Rooms over run folders; every button is a command of `delora-sd`.

Nothing below knows of it, it never imports the judge, and it holds no state that is not a file.
"""
