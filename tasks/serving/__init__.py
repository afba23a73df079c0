"""Decisions about what is served: pure functions over what was measured."""
