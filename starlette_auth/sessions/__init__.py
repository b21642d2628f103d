"""Sessions: what a visitor's requests have in common, and where it is kept."""
