"""HTTP helpers: reads requests and writes responses. Does not depend on users."""
