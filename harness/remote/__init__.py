"""Other hosts: OpenSSH connections, and whole runs on a remote host."""
