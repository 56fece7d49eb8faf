"""What a finished run is turned into: a classifier, a student, an exported file, or features of other images."""
