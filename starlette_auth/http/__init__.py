"""What is read from a request and written to a response. Knows no user."""
