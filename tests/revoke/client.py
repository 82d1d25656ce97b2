"""A user's process that does one thing for each line it gets, and says how that ended in one line."""
import ctypes
import errno
import mmap
import os
import signal
import socket
import sys

files = {}
maps = {}


def shown(data):
    return "ok " + bytes(data[:32]).decode("latin-1").rstrip("\0")


def through_a_pipe(data):
    """Reads memory inside a system call, which then says EFAULT instead of ending the process by SIGBUS."""
    out, into = os.pipe()
    try:
        os.write(into, data)
        return os.read(out, 4096)
    finally:
        os.close(out)
        os.close(into)


def do_open(name, how, path):
    flags = {"r": os.O_RDONLY, "rw": os.O_RDWR, "dir": os.O_RDONLY | os.O_DIRECTORY, "path": os.O_PATH}[how]
    files[name] = os.open(path, flags | os.O_CLOEXEC)
    return "ok"


def do_close(name):
    os.close(files.pop(name))
    return "ok"


def do_read(name):
    return shown(os.pread(files[name], 1 << 16, 0))


def do_splice(name):
    out, into = os.pipe()
    try:
        count = os.splice(files[name], into, 4096, offset_src=0)
        return shown(os.read(out, count))
    finally:
        os.close(out)
        os.close(into)


def do_write(name, text):
    os.pwrite(files[name], text.encode(), 0)
    return "ok"


def do_fsync(name):
    os.fsync(files[name])
    return "ok"


def do_map(name, how):
    flags = mmap.MAP_SHARED if how in ("shared", "writable") else mmap.MAP_PRIVATE
    prot = mmap.PROT_READ | (mmap.PROT_WRITE if how in ("writable", "own") else 0)
    maps[name] = mmap.mmap(files[name], 4096, flags=flags, prot=prot)
    return shown(maps[name][:32])


def do_touch(name):
    with memoryview(maps[name]) as view:
        return shown(through_a_pipe(view[:32]))


def do_store(name, text):
    maps[name][: len(text)] = text.encode()
    return "ok"


def do_sigbus(name):
    child = os.fork()
    if child == 0:
        maps[name][0]
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "ok"


def do_again(name):
    os.close(os.open(f"/proc/self/fd/{files[name]}", os.O_RDONLY))
    return "ok"


def do_stat(path):
    return f"ok {os.stat(path).st_ino}"


def do_fstat(name):
    return f"ok {os.fstat(files[name]).st_ino}"


def do_chdir(path):
    os.chdir(path)
    return "ok"


def do_list(path):
    return "ok " + ",".join(sorted(os.listdir(path)))


def do_listfd(name):
    return "ok " + ",".join(sorted(os.listdir(files[name])))


def do_readlink(path):
    return "ok " + os.readlink(path)


def do_known(name):
    """Size as the kernel has it, without asking the file system: statx with AT_EMPTY_PATH and AT_STATX_DONT_SYNC."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(256)
    if libc.statx(files[name], b"", 0x1000 | 0x4000, 0x7FF, buffer) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return f"ok {int.from_bytes(buffer[40:48], sys.byteorder)}"


def do_cwd():
    return "ok " + os.getcwd()


def do_await(where):
    """Where a descriptor can be sent to."""
    files[where] = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    files[where].bind("\0" + where)
    files[where].listen()
    return "ok"


def do_take(name, where):
    with files.pop(where) as waits, waits.accept()[0] as sender:
        files[name] = socket.recv_fds(sender, 1, 1)[1][0]
    return "ok"


def do_give(name, where):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as taker:
        taker.connect("\0" + where)
        socket.send_fds(taker, [b"x"], [files[name]])
    return "ok"


def do_run(path):
    """Ends with the program."""
    status = os.spawnv(os.P_WAIT, path, [path, "-c", "exit 7"])
    return "ok" if status == 7 else f"status {status}"


def do_pid():
    return f"ok {os.getpid()}"


for line in sys.stdin:
    command, *arguments = line.rstrip("\n").split("\t")
    try:
        said = globals()["do_" + command](*arguments)
    except OSError as error:
        said = errno.errorcode[error.errno]
    print(said, flush=True)
