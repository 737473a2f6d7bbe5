"""The five rooms: their forms, and what their buttons call."""
