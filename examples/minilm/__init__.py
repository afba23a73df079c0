"""A sentence encoder on real text in many languages: corpus, golden set and safety head."""
