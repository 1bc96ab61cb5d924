"""The Open Inference Protocol, version 2, on the server's port, for clients that know Triton or KServe and not agvas.

What comes in becomes the requests of `Inspection`, and takes the same way through queues and engines.
"""
