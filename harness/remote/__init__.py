"""Other hosts: an OpenSSH connection, and a whole run at its other end."""
