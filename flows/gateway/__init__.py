"""Serving: the gateway follows each model's ledger, reads texts, and samples live traffic."""
