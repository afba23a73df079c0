"""OpenAI's interface to models that write, read or hear."""
