"""Writers: a server, vLLM, an engine in this process, and the client that asks them."""
