"""Tests of the assessment against OWASP ASVS."""
