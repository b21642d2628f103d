"""Optional features, each a file or a folder."""
