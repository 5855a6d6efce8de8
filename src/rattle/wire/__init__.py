"""What travels between environment servers and clients: messages, arrays, encodings. No sockets."""
