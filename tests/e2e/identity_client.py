"""Asks kmsd over its Unix socket, as whoever runs this, and prints the whole answer.

usage: identity_client.py SOCKET TARGET BODY [HEADER ...]
       identity_client.py --passed UID SOCKET TARGET BODY    over a descriptor that another process of uid UID was given
"""

import os
import socket
import sys


def request(target, body, headers):
    lines = ["POST / HTTP/1.1", "Host: kmsd", "Connection: close", f"X-Amz-Target: {target}"]
    lines += headers + [f"Content-Length: {len(body)}", "", body]
    return "\r\n".join(lines).encode()


def connect(path):
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    return connection


def exchange(connection, message):
    connection.sendall(message)
    while chunk := connection.recv(65536):
        sys.stdout.write(chunk.decode())
    sys.stdout.flush()


if sys.argv[1] == "--passed":
    uid, path, target, body = sys.argv[2:]
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    child = os.fork()
    if child == 0:
        ours.close()
        _, descriptors, _, _ = socket.recv_fds(theirs, 1, 1)
        os.setresuid(int(uid), int(uid), int(uid))
        exchange(socket.socket(fileno=descriptors[0]), request(target, body, []))
        os._exit(0)
    connection = connect(path)
    socket.send_fds(ours, [b"x"], [connection.fileno()])
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

path, target, body, *headers = sys.argv[1:]
exchange(connect(path), request(target, body, headers))
