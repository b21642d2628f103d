"""Passkeys and security keys (WebAuthn): challenges, options and the verification of what a browser sends."""
