"""A bundle's arithmetic and memory beside what the machine can do: `agvas-runtime roofline`."""
