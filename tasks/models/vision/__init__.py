"""Image embedding: the vision side of a CLIP or a ViT, and the classes of its embeddings."""
