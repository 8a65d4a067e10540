"""The process in which a student's code runs: it can compute, and do nothing else that lasts.

    python -I course/sandbox.py        asks on stdin, a line of JSON each; answers on stdout

It imports torch once, and none of our files. For every question it forks. The child has its own
session, limits of time, memory and file size, and the rules below; it imports the copy of the
repository that the question names, runs the exam and sends back what came out: numbers, not
verdicts, for whoever can run here can also say "passed". The judge, in another process, compares.

The rules are held twice. An audit hook ends the child with a word that a student understands; and
on Linux the kernel (Landlock) gives no file outside the copy to anything that gets past the hook,
so that neither the solution nor another submission can be read. What neither stops: a program
written to attack the machine by memory tricks. Who expects that runs `grade` in a container.
"""
import ctypes
import importlib
import json
import os
import resource
import select
import signal
import struct
import sys
import sysconfig
import threading
import time
import traceback

MOST = 1 << 23                                          # bytes of an answer
MOST_NUMBERS = 1 << 18                                  # of one tensor
FILES = 1 << 22                                         # bytes of a file that is written
ENDS = ("os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.spawn", "os.system",
        "subprocess.Popen", "pty.spawn", "os.kill", "os.killpg", "signal.pthread_kill")
PLACES = {"os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate",
          "os.chmod", "os.chown", "os.utime", "shutil.rmtree", "shutil.move", "shutil.copyfile"}


# ---- The rules

def forbid(tell, own):
    """An audit hook that ends the process, after tell(what it did), for what no exercise needs."""
    readable = tuple({os.path.realpath(path) for path in own + libraries()})

    def inside(path, folders):
        path = os.path.realpath(os.fsdecode(path) if isinstance(path, bytes) else path)
        return any(path == folder or path.startswith(folder + os.sep) for folder in folders)

    def hook(event, arguments):
        did = None
        if event in ENDS:
            did = "starts or signals another process"
        elif event.startswith("socket."):
            did = "opens a connection"
        elif event.startswith("ctypes."):
            did = "calls foreign code"
        elif event == "open" and isinstance(arguments[0], (str, bytes)):
            path, mode, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
            if writes and not inside(path, (own[0], "/dev/null")):
                did = "writes a file outside its folder"
            elif not writes and not inside(path, readable):
                did = "reads a file outside its folder"
        elif event in PLACES:
            if not all(inside(path, own[:1]) for path in arguments[:2] if isinstance(path, str)):
                did = "changes files outside its folder"
        if did:
            tell(did)

    sys.addaudithook(hook)


def libraries():
    """Where Python and its libraries lie, and the little that they read while they run."""
    paths = [sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), "/usr", "/lib", "/lib64",
             "/etc", "/dev/null", "/dev/urandom", "/dev/random", "/proc/cpuinfo", "/proc/meminfo",
             "/proc/self", "/sys/devices/system/cpu"]
    return [path for path in paths if os.path.exists(path)]


def confine(folder, readable):
    """The kernel's own rules for this process and all that it starts: libraries, `readable` and
    `folder` may be read, `folder` written, no connection opened. False: this system has no
    Landlock."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    create, add, restrict = 444, 445, 446               # the same numbers on every architecture
    version = libc.syscall(create, None, 0, 1)
    if version < 1:
        return False
    files = (1 << {1: 13, 2: 14}.get(version, 15)) - 1  # all rights that it knows
    network, scopes = (3 if version >= 4 else 0), (3 if version >= 6 else 0)
    rules = struct.pack("QQQ", files, network, scopes)[:8 * (1 + (version >= 4) + (version >= 6))]
    ruleset = libc.syscall(create, rules, len(rules), 0)
    execute, read, list_ = 1 << 0, 1 << 2, 1 << 3
    for path in [*libraries(), *readable, folder]:
        place = os.open(path, os.O_PATH)
        rights = files if path in (folder, "/dev/null") else execute | read | list_
        if not os.path.isdir(path):                     # rights of folders do not fit a file
            rights &= execute | read | 1 << 1 | (1 << 14 if version >= 3 else 0)
        libc.syscall(add, ruleset, 1, struct.pack("=Qi", rights, place), 0)
        os.close(place)
    libc.prctl(38, 1, 0, 0, 0)                          # no new privileges
    done = libc.syscall(restrict, ruleset, 0) == 0
    os.close(ruleset)
    return done


def limit(seconds, memory):
    """Limits of the kernel on this process: CPU seconds, bytes beyond what it has, files."""
    resource.setrlimit(resource.RLIMIT_CPU, (seconds + 1, seconds + 2))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILES, FILES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform.startswith("linux"):                # elsewhere it is not kept
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + memory, now + memory))


# ---- The exam

def plain(value):
    """A result as JSON: a tensor or array as its shape and numbers."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.double() if value.is_floating_point() else value
    elif hasattr(value, "item") and getattr(value, "shape", None) == ():    # a number of NumPy's
        value = value.item()
    if hasattr(value, "numpy"):
        value = value.numpy()
    if hasattr(value, "tolist") and hasattr(value, "shape"):
        if value.size > MOST_NUMBERS:
            raise ValueError(f"a result of {value.size} numbers")
        return {"shape": list(value.shape), "numbers": value.reshape(-1).tolist()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {"keys": [str(key) for key in value], "values": [plain(v) for v in value.values()]}
    if type(value).__name__ == "Outcome":
        return {"outcome": str(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return {"type": type(value).__name__}


def where(error, folder):
    """The deepest line of the copy that an exception came through: (file, line)."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__)
              if frame.filename.startswith(folder) and os.sep + "course" + os.sep
              not in frame.filename]
    return [[os.path.relpath(frame.filename, folder), frame.lineno] for frame in frames[-8:]]


class TooLong(BaseException):
    pass


def too_long(*_):
    raise TooLong


def sit(question, pipe):
    """In the child: run the exam's checks, send a line for each, then one that says it is over."""
    folder, out = question["folder"], os.fdopen(pipe, "w")

    def send(**line):
        out.write(json.dumps(line) + "\n")
        out.flush()

    def tell(did):
        send(refused=did)
        os._exit(1)

    sys.path.insert(0, folder)
    os.chdir(folder)
    os.environ["TMPDIR"] = folder
    limit(question["seconds"], question["memory"])
    send(kernel="kernel" in question["layers"] and confine(folder, question["readable"]))
    if "hook" in question["layers"]:
        forbid(tell, [folder, *question["readable"]])
    checks = []
    try:
        checks = importlib.import_module(question["exam"]).CHECKS[question["assignment"]]
    except BaseException as error:
        send(broken=describe(error, folder))
    signal.signal(signal.SIGPROF, too_long)
    for number, check in enumerate(checks):
        try:
            signal.setitimer(signal.ITIMER_PROF, check.seconds)      # of the CPU's time
            send(check=number, result=plain(check.run(f"{question['seed']}/{number}")))
        except BaseException as error:                  # SystemExit, too
            send(check=number, error=describe(error, folder))
        signal.setitimer(signal.ITIMER_PROF, 0)
    threads = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    send(over=True, threads=len(threads))
    os._exit(0)


def describe(error, folder):
    text = " ".join(str(error).split())
    return {"type": type(error).__name__, "text": text[:160], "lines": where(error, folder)}


# ---- The parent of them

def offspring():
    """Processes whose parent is this one; those of an ended child come to it, see main."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return []


def held(question):
    """Fork a child that sits the exam, read what it sends; end it and all that it leaves."""
    for library in question["libraries"]:               # here, where it may do all that it does
        importlib.import_module(library)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            null = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(null, stream)
            os.closerange(3, write)                     # also this process's way to the judge
            os.closerange(write + 1, 1 << 16)
            sit(question, write)
        finally:
            os._exit(3)
    os.close(write)
    sent, ended, end = b"", False, time.monotonic() + question["seconds"]
    while len(sent) < MOST and (left := end - time.monotonic()) > 0:
        if select.select([read], [], [], left)[0]:
            more = os.read(read, 1 << 16)
            sent += more
            if not more or b'"over": true' in more:
                ended = True
                break
    os.close(read)
    late, status = not ended and len(sent) < MOST, None
    if ended:                                           # it may still be at its last line
        for _ in range(100):
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                break
            time.sleep(0.01)
        else:
            status = None
    left = bool([pid for pid in offspring() if pid != child])
    stop(child, status is None)
    lines = sent.decode("utf-8", "replace").split("\n")[:-1]
    return {"lines": lines, "late": late, "much": len(sent) >= MOST, "left": left,
            "signal": os.WTERMSIG(status) if status and os.WIFSIGNALED(status) else 0}


def stop(child, running):
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        pass
    if running:
        os.waitpid(child, 0)
    for _ in range(100):                                # what it left, and what that left
        more = offspring()
        if not more:
            return
        for pid in more:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass


def main():
    import av  # noqa: E401, F401
    import numpy
    import PIL.Image
    import safetensors.torch
    import torch
    import tqdm
    torch.set_num_threads(1)
    if sys.platform.startswith("linux"):                # orphans of a child come to this process
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)        # the judge answers Ctrl-C
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        question = json.loads(line)
        answers.write(json.dumps({**held(question), "copy": question["folder"]}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
