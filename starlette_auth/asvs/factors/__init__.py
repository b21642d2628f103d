"""Checks of V6.5 and V6.7: second factors and passkeys."""
