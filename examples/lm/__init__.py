"""The polyglot example: a small causal language model of code, prose in nine languages, and five tasks."""
