"""What other servers read: model repositories and manifests, written from a release."""
