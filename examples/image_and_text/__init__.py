"""An image and a text of one request, answered by two models within one budget of time."""
