"""Load of many cameras on a server: frames fall due by a schedule that no answer moves, and what became of each."""
