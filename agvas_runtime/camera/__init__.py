"""A line camera's side of the wire: frames out, verdicts in. For now its frames come from a folder of image files."""
