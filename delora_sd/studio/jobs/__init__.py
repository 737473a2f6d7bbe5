"""Work that outlives the page: commands as processes of their own, in a queue of folders."""
