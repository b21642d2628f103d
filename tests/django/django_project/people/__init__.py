"""Users of other kinds than Django's own."""
