"""What serving adds to a ledger: incidents, and releases on trial."""
