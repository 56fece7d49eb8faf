"""What lies at a path: names, classes, splits, bytes. Nothing here imports torch."""
