"""Language models that stay checkpoints, through the loop."""
