"""What goes over the wire: bodies, tensors, datatypes, and what a graph takes of them."""
