"""Reads, or writes, the same files in every way there is, as fast as it can, through one revocation after the other.

A block of shared memory says which trial is on and whether its command has returned. What a call gives that began after that
is counted: it must never be anything.
"""
import mmap
import os
import struct
import sys
import time

control, number, what, last, *paths = sys.argv[1:]
block = mmap.mmap(os.open(control, os.O_RDWR), 4096)
own = 64 + 64 * int(number)


def get(offset):
    return struct.unpack_from("Q", block, offset)[0]


def put(offset, value):
    struct.pack_into("Q", block, offset, value)


def trial():
    return get(0)


def returned():
    return get(8)


class Held:
    """A file that is open and mapped."""

    def __init__(self, path):
        self.path = path
        self.file = self.map = None

    def open(self):
        flags = os.O_RDONLY if what == "read" else os.O_RDWR
        self.file = os.open(self.path, flags | os.O_CLOEXEC)
        prot = mmap.PROT_READ | (0 if what == "read" else mmap.PROT_WRITE)
        self.map = mmap.mmap(self.file, 8192, flags=mmap.MAP_SHARED, prot=prot)

    def close(self):
        if self.map is not None:
            self.map.close()
        if self.file is not None:
            os.close(self.file)
        self.file = self.map = None


pipe_out, pipe_in = os.pipe()


def drain():
    global pipe_out, pipe_in
    try:
        return os.read(pipe_out, 65536)
    except OSError:
        # A page that was dropped after it had been spliced cannot be read, and stays in the pipe.
        os.close(pipe_out)
        os.close(pipe_in)
        pipe_out, pipe_in = os.pipe()
        raise


def by_read(held):
    return os.pread(held.file, 8192, 0)


def by_splice(held):
    if os.splice(held.file, pipe_in, 4096, offset_src=0):
        return drain()
    return b""


def by_mapping(held):
    # Inside a system call: EFAULT instead of SIGBUS.
    with memoryview(held.map) as view:
        os.write(pipe_in, view[4096:4160])
    return drain()


def by_open(held):
    file = os.open(held.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(file, 64, 0)
    finally:
        os.close(file)


def by_stat(held):
    os.stat(held.path)
    return b"a name"


def write(held):
    os.pwrite(held.file, b"w" * 600, 4000)


def write_mapped(held):
    with memoryview(held.map) as view:
        os.write(pipe_in, b"m" * 64)
        try:
            os.readv(pipe_out, [view[100:164]])
        except OSError:
            drain()
            raise


def again(held):
    held.close()
    held.open()


files = [Held(path) for path in paths]
reading = [by_read, by_splice, by_mapping, by_open, by_stat]
writing = [write, write_mapped]
last = int(last)
while True:
    while trial() == last:
        time.sleep(0.0005)
    last = trial()
    if last == 2**64 - 1:
        break
    for held in files:
        again(held)
    put(own, last)
    rounds = 0
    # Writers go on until the next trial.
    while rounds < 10 if what == "read" else trial() == last:
        over = returned() == last
        for held in files:
            for way in reading if what == "read" else writing:
                late = returned() == last
                try:
                    got = way(held)
                except OSError:
                    if what == "write":
                        try:
                            again(held)
                        except OSError:
                            pass
                    continue
                except (ValueError, TypeError):
                    # Not open just now.
                    try:
                        again(held)
                    except OSError:
                        pass
                    continue
                put(own + 24, get(own + 24) + 1)
                if what == "read" and late and got:
                    put(own + 16, get(own + 16) + 1)
                    put(own + 32, reading.index(way))
        if over:
            rounds += 1
    for held in files:
        held.close()
    put(own + 8, last)
