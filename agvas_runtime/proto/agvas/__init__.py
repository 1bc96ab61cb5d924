"""The agvas protocols, one package a version."""
