"""What a site may switch on, one file each."""
