"""Models with inputs and outputs of their own: any names, dtypes and dynamic dimensions."""
