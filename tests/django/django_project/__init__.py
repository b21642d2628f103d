"""A real Django project for the tests. It runs in separate processes."""
