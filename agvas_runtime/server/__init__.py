"""The gRPC server: `service.py` answers requests, `serve.py` runs the process. Neither knows a tensor."""
