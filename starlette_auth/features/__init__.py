"""Optional features, one file each."""
