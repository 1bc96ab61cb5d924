"""Two recorded runs beside each other: what changed beyond noise."""
