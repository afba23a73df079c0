"""From a request as its user sent it, an image file, a sound file or a text, to tensors."""
