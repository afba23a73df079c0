"""Language models that stay checkpoints: their files, the workspace's copy, a layer at a time."""
