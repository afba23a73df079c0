"""A guarded chatbot: retrieval, an 8-bit backbone, and full precision where much is at stake."""
