"""Data of the project: synthetic streams and readers of data sets on disk."""
