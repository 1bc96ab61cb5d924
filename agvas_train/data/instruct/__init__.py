"""Anomaly-Instruct records of any MVTec-layout set: three pictures and one checked answer an image (paper, A.1)."""
