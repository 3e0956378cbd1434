"""The owner's socket: status and commands over HTTP on a 0600 Unix socket."""
