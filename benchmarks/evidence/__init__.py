"""The map of what drift does: shift x model x scheme, and what each repair wins back."""
