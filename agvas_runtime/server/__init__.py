"""The gRPC server: `service.py` answers requests, `serve.py` runs the process. Neither knows a tensor."""

import os

# gRPC's core writes lines of its own to stderr, as many as any caller likes; what matters is in our log, or raised.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
