"""Which release answers a request: the routine one, a higher tier, or one on trial."""
