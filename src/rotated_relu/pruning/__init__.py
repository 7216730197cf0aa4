"""Which channels go, and taking them out."""
