"""A command on a real pseudo terminal of a given width, and what a person sees there."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
import threading
from collections.abc import Mapping, Sequence


def run_on_terminal(
    command: Sequence[str], columns: int, environment: Mapping[str, str], timeout: float
) -> tuple[int, str]:
    """Exit code, and everything that was written to the terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    seen: list[bytes] = []

    def read() -> None:
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the last writer has closed it
                return
            if not piece:
                return
            seen.append(piece)

    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    reader = threading.Thread(target=read)
    reader.start()
    try:
        code = process.wait(timeout)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        reader.join(10)
        os.close(ours)
    return code, b"".join(seen).decode(errors="replace")
