"""What a finished run becomes: a classifier, a student, an exported file, features of other images."""
