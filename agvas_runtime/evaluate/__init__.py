"""A data set through a bundle or a checkpoint: the paper's four figures per category, as table, JSON and pictures."""
