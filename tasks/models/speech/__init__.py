"""Speech recognition: a Whisper as one teacher-forced graph, its features, greedy transcripts, and comparisons."""
