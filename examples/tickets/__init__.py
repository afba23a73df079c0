"""The tickets example: a LoRA over the polyglot core that sorts customers' tickets into queues."""
