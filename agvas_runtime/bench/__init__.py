"""agvas-bench: latency per stage, throughput and memory of engines, measured side by side."""
