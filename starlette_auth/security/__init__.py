"""Defences: throttling, single-use tokens, CSRF tokens, known devices."""
