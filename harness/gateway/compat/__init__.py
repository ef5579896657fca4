"""How compatible the gateway is: calls of unmodified SDKs, each in an environment of its own."""
