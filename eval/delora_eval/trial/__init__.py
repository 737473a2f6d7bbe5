"""The judges judged: what each can tell apart, on real photos alone."""
