"""The HTTP server: connections, and what a request may cost before its caller is known."""
