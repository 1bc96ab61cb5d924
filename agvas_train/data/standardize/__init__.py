"""The paper's test sets, from their original downloads to MVTec's layout with a meta.json. Nothing is downloaded."""
