"""Speech recognition: a Whisper as one teacher-forced graph, its features and transcripts."""
