"""Passkeys: credentials that a device keeps, and that log in without a password."""
