"""Services under test that are known only by their address and API, and the client for them."""
