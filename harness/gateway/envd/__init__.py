"""The gateway's side of the channel to envd, the daemon inside each sandbox."""
