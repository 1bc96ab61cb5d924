"""From a merged checkpoint to a bundle: graphs, quantisation, and the proof that both compute the same."""
