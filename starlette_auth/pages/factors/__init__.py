"""Proofs of logged-in users: reauthentication, step-up, and second factors."""
