"""What agvas answers of the Open Inference Protocol."""
