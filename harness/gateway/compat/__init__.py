"""How compatible the gateway is: real calls of unmodified SDKs, each in an environment of its own."""
