"""Spoken digits made of formants, and a small Whisper that writes them down."""
