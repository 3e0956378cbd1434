"""The OpenAI-compatible door: naming the stage, routing to an adapter version, forwarding."""
