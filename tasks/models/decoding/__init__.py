"""What the engine of a cached decoder does: reads, writes, scores, and how fast."""
