"""Generated gRPC stubs of `protos/`; `make proto` writes them anew. Nothing here is edited by hand."""
