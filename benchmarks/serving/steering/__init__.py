"""Which tier answers: routing, and falling back."""
