"""Worker processes: worlds that are stepped one by one in Python, side by side on all cores.

A worker holds an ordinary batch of worlds. What these hand out lies in memory that processes share; a byte says that a
step is due, another that it is done, and anything else goes as MessagePack through the same socket.
"""
