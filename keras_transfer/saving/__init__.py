"""Models from files, and to files of other programs."""
