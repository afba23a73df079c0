"""The polyglot example: a small language model of code, prose in nine languages, five tasks."""
