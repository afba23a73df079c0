"""What travels to a device beside an engine."""
