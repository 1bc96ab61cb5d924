"""`python -m agvas_runtime.server.health [HOST:PORT]`: exit 0 when the server there serves, 1 otherwise.

For container health checks, so it imports as little as possible.
"""

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

DEFAULT_ADDRESS = "127.0.0.1:50051"
TIMEOUT_S = 3.0


def status(address: str) -> str:
    """The server's health, SERVING when all is well; the reason when it does not answer."""
    with grpc.insecure_channel(address) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            return str(error.code().name)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status))


if __name__ == "__main__":
    found = status(sys.argv[1] if len(sys.argv) > 1 else DEFAULT_ADDRESS)
    print(found)
    sys.exit(0 if found == "SERVING" else 1)
