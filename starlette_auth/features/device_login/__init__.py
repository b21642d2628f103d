"""The device authorization grant (RFC 8628): a command line or a television logs in through a browser elsewhere."""
