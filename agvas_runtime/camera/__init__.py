"""A line camera's side of the wire: frames out, verdicts in, and a decision for every part whatever happens."""
