"""File handles, for the tests of fs/handles.rs: Rust's libraries have no safe form of these calls.

usage: handle.py get PATH            prints the handle of PATH in hex
       handle.py read MOUNT HANDLE   what the file of a handle contains, or the name of the error
       handle.py list MOUNT HANDLE   the entries of the directory of a handle
"""

import ctypes
import errno
import os
import sys

libc = ctypes.CDLL(None, use_errno=True)


class Handle(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint), ("type", ctypes.c_int), ("data", ctypes.c_ubyte * 128)]


def get(path):
    handle, mount = Handle(bytes=128), ctypes.c_int()
    if libc.name_to_handle_at(-100, path.encode(), ctypes.byref(handle), ctypes.byref(mount), 0):
        raise OSError(ctypes.get_errno(), path)
    return f"{handle.type:x}:{bytes(handle.data[:handle.bytes]).hex()}"


def opened(mount, text, flags):
    kind, data = text.split(":")
    data = bytes.fromhex(data)
    handle = Handle(bytes=len(data), type=int(kind, 16))
    ctypes.memmove(handle.data, data, len(data))
    root = os.open(mount, os.O_RDONLY | os.O_DIRECTORY)
    fd = libc.open_by_handle_at(root, ctypes.byref(handle), flags)
    if fd < 0:
        print(errno.errorcode[ctypes.get_errno()])
        sys.exit(0)
    return fd


what, *arguments = sys.argv[1:]
if what == "get":
    print(get(arguments[0]))
elif what == "read":
    print(os.read(opened(*arguments, os.O_RDONLY), 1 << 20).decode())
else:
    print(" ".join(sorted(os.listdir(opened(*arguments, os.O_RDONLY | os.O_DIRECTORY)))))
