"""Runs KServe's own client, in an environment of its own: `python kserve_caller.py ADDRESS IMAGE`, JSON to stdout.

No test; `test_kserve_clients.py` runs it with the Python of .venv-kserve, where neither agvas nor its dependencies are.
"""

import asyncio
import json
import sys
from pathlib import Path

import numpy as np
from google.protobuf import __version__ as protobuf
from kserve import InferenceGRPCClient, InferInput, InferRequest
from kserve.protocol.infer_type import RequestedOutput


async def main(address: str, image: Path) -> dict[str, object]:
    client = InferenceGRPCClient(url=address, timeout=60)
    frame = np.zeros((48, 64, 3), np.uint8)
    raw = InferInput("FRAME", [*frame.shape], "UINT8")
    raw.set_data_from_numpy(frame, binary_data=True)
    listed = InferInput("FRAME", [*frame.shape], "UINT8", data=frame.ravel().tolist())
    encoded = InferInput("IMAGE", [1], "BYTES")
    encoded.set_data_from_numpy(np.array([image.read_bytes()], np.object_), binary_data=True)
    wanted = [RequestedOutput(name) for name in ("MASK", "VERDICT")]
    found = {}
    for name, tensor in (("raw", raw), ("listed", listed), ("encoded", encoded)):
        request = InferRequest(
            "agvas", [tensor], request_id=name, request_outputs=wanted, parameters={"camera_id": "k"}
        )
        reply = await client.infer(request)
        outputs = {output.name: output.as_numpy() for output in reply.outputs}
        mask, [verdict] = outputs["MASK"], outputs["VERDICT"]
        text = verdict.decode() if isinstance(verdict, bytes) else str(verdict)
        found[name] = {"id": reply.id, "shape": mask.shape, "area": int(mask.sum()), "verdict": text}
    try:
        await client.infer(InferRequest("agvas", [InferInput("FRAME", [1], "FP32", data=[0.5])]))
    except Exception as error:
        found["error"] = str(error)
    ready = await client.is_server_live(), await client.is_server_ready(), await client.is_model_ready("agvas")
    await client.close()
    return {"ready": ready, "protobuf": protobuf, **found}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1], Path(sys.argv[2])))))
