"""What watches the same windows of traffic in the detection benchmark: our lenses, and peers."""
