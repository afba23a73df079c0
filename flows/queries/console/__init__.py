"""What the console's pages and their JSON twins show, as values. Reads only."""
