"""`agvas-runtime calibrate`: threshold and smallest area for a wanted false-reject rate, from normal images alone."""
