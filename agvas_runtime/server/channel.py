"""gRPC settings that server and client share, chosen for frames of megabytes over a local network."""

MEBIBYTE = 1 << 20
DEFAULT_MESSAGE_MB = 64
"""Largest request by default: a raw 16-megapixel RGB frame and some room."""

READ_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.experimental.tcp_read_chunk_size", MEBIBYTE),
    ("grpc.experimental.tcp_min_read_chunk_size", MEBIBYTE),
    ("grpc.experimental.tcp_max_read_chunk_size", 4 * MEBIBYTE),
    ("grpc.http2.lookahead_bytes", 8 * MEBIBYTE),
)


def server_options(max_message_mb: int) -> list[tuple[str, int]]:
    """Options of a server that takes requests up to this size and never shares its port with another process."""
    return [
        *READ_OPTIONS,
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", max_message_mb * MEBIBYTE),
        ("grpc.max_send_message_length", -1),
    ]


def client_options() -> list[tuple[str, int]]:
    """Options of a client: the server decides what is too large."""
    return [*READ_OPTIONS, ("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
