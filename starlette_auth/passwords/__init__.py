"""Password hashing and password validation."""
