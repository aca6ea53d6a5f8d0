"""Starts the real server for an end-to-end test and sees everything that it started.

The environment names the program (TROUPE_BINARY) and the model (TROUPE_TEST_MODEL).
"""
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import unittest
import uuid

import client
from client import wait_for

BINARY = os.environ.get("TROUPE_BINARY", "")
MODEL = os.environ.get("TROUPE_TEST_MODEL", "")
SHARED = ("/dev/shm/", "/tmp/", "/var/tmp/", "/run/")
MPI_ENVIRONMENT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def mpirun(n, *command):
    return ["mpirun", "-n", str(n), "--oversubscribe", "--bind-to", "none",
            "--mca", "mpi_yield_when_idle", "1", *command]


def _read(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:  # the process has ended
        return b""


class Program:
    """A running command and all its descendants, found by a mark in their environment: also
    those that left their parent, session or process group."""

    def __init__(self, command, environment=None, **popen):
        self.mark = f"TROUPE_TEST_MARK={uuid.uuid4()}"
        name, value = self.mark.split("=")
        # A test that is killed takes its service along.
        self.process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {}), name: value}, **popen)
        self.output = b""
        self.files = set()  # that must be gone in the end
        self.keeps = [os.path.dirname(os.path.dirname(BINARY)), MODEL]  # program, libraries, model
        self.reader = threading.Thread(target=self._read_output, daemon=True)
        self.reader.start()

    def _read_output(self):
        while chunk := self.process.stdout.read1():
            self.output += chunk

    @property
    def pid(self):
        return self.process.pid

    def log(self):
        return self.output.decode(errors="replace")

    @property
    def lines(self):
        """Of the output; the last one, which may be incomplete, only after the end."""
        lines = self.log().split("\n")
        return lines if not self.reader.is_alive() else lines[:-1]

    def wait_line(self, pattern, timeout=client.TIMEOUT):
        """The match of the first output line that matches. Fails when the program ends before."""
        def look():
            ended = self.process.poll() is not None and not self.reader.is_alive()
            for line in self.lines:
                if match := re.search(pattern, line):
                    return match
            if ended:
                raise AssertionError(f"ended without '{pattern}':\n{self.log()}")
            return None
        return wait_for(look, f"'{pattern}' in the output", timeout)

    def processes(self):
        """pid -> command line of everything of this program that lives."""
        found = {}
        mark = self.mark.encode()
        for pid in filter(str.isdigit, os.listdir("/proc")):
            if mark in _read(f"/proc/{pid}/environ").split(b"\0"):
                found[int(pid)] = _read(f"/proc/{pid}/cmdline").replace(b"\0", b" ").decode()
        return found

    def pids(self, command):
        """Of the processes whose command line begins so, oldest first."""
        return sorted(pid for pid, line in self.processes().items() if line.startswith(command))

    def rank_pids(self):
        return self.pids(BINARY + " rank ")

    def note_files(self):
        """Paths in shared places that the processes of now have open or mapped must be gone in the
        end."""
        paths = set()
        for pid in self.processes():
            for line in _read(f"/proc/{pid}/maps").decode(errors="replace").splitlines():
                paths.add(line.split(maxsplit=5)[-1])
            try:
                paths.update(os.readlink(f"/proc/{pid}/fd/{fd}")
                             for fd in os.listdir(f"/proc/{pid}/fd"))
            except OSError:
                pass
        keeps = tuple(filter(None, self.keeps))
        self.files |= {p for p in paths if p.startswith(SHARED) and not p.startswith(keeps)}

    def leftovers(self):
        """Processes and files that are still there."""
        return list(self.processes().values()) + [f for f in self.files if os.path.exists(f)]

    def wait_gone(self, timeout):
        wait_for(lambda: not self.leftovers(), "everything to be gone", timeout)

    def wait_exit(self, timeout=client.TIMEOUT):
        code = self.process.wait(timeout)
        self.reader.join(timeout)
        return code

    def kill_all(self):
        while alive := self.processes():
            for pid in alive:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.02)
        self.process.wait()
        self.reader.join()
        self.process.stdout.close()


class Service(Program):
    """`troupe serve` on a free port, waited for until it is ready. Use as a context manager: at
    the end the log is printed, for ctest to show when something failed."""

    def __init__(self, *options, command=None, environment=None, model=None):
        serve = [BINARY, "serve", model or MODEL, "--port", "0", *options]
        super().__init__((command or []) + serve, environment)
        self.keeps.append(str(model or ""))
        try:
            self.port = int(self.wait_line(r" ready at http://127\.0\.0\.1:(\d+)")[1])
            self.join_file = self.wait_line(r"troupe rank --join (\S+)")[1]
        except AssertionError:
            self.kill_all()
            raise
        self.run_directory = os.path.dirname(self.join_file)
        self.files.add(self.run_directory)
        self.note_files()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill_all()
        print(f"--- log of {self.pid}\n{self.log()}\n---", flush=True)

    def get(self, path):
        return client.exchange(self.port, "GET", path)

    def post(self, path, body, headers=None):
        return client.exchange(self.port, "POST", path, body, headers)

    def complete(self, **body):
        """A greedy completion as JSON; `body` may override everything."""
        answer = self.post("/v1/completions", {"temperature": 0, **body})
        if answer.status != 200:
            raise AssertionError(f"{answer.status}: {answer.body}")
        return answer.json()

    def stream(self, **body):
        """A greedy streamed completion with logprobs that runs to its max_tokens."""
        return client.Stream(
            self.port, {"temperature": 0, "ignore_eos": True, "logprobs": 0, **body})

    def metric(self, name, **labels):
        """The sum of the samples of a metric that carry `labels`."""
        total = 0.0
        for line in self.get("/metrics").body.decode().splitlines():
            match = re.fullmatch(r"([\w:]+)\{(.*)\} (\S+)", line)
            if match and match[1] == name and all(f'{k}="{v}"' in match[2]
                                                  for k, v in labels.items()):
                total += float(match[3])
        return total

    def wait_metric(self, name, value, **labels):
        wait_for(lambda: self.metric(name, **labels) == value, f"{name} = {value}")

    def wait_idle(self):
        """No request holds a row or a slot."""
        for name in ("running", "queued", "paused"):
            self.wait_metric(f"troupe_requests_{name}", 0)
        self.wait_metric("troupe_kv_slots_used", 0)

    def terminate(self):
        """SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait_exit()


def skip_unless_possible(model=True):
    if not BINARY or (model and not MODEL):
        print("skipped: TROUPE_BINARY and TROUPE_TEST_MODEL are needed")
        sys.exit(77)
    if not shutil.which("mpirun"):
        print("skipped: no mpirun")
        sys.exit(77)


def main():
    skip_unless_possible()
    unittest.main(verbosity=2)
