"""What is trained: networks, and one file for each method, from views to a loss."""
