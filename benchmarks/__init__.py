"""Side-by-side runs against peers: `python -m benchmarks [NAME...] [--quick] [--json FILE]`."""
