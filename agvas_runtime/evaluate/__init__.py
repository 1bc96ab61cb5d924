"""Scoring data sets: figures by category and by image, of models and of other programs' maps."""
