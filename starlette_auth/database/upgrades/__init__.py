"""Moving data that an earlier version of this package stored elsewhere."""
