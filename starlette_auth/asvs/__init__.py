"""The assessment of an application against OWASP ASVS 5.0, as a plugin of pytest."""
