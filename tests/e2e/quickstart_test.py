"""launch/quickstart.sh --once: from the command to a streamed answer, exit 0."""
import os
import re
import shutil
import socket
import time
import unittest
from pathlib import Path

import client
import service

SCRIPT = Path(__file__).parent.parent.parent / "launch" / "quickstart.sh"


class QuickstartTest(unittest.TestCase):
    def run_once(self):
        """Returns the seconds from the command to the first piece of the answer."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        begin = time.monotonic()
        program = service.Program([str(SCRIPT), "--once", "--port", str(port)])
        self.addCleanup(program.kill_all)
        client.wait_for(lambda: re.search(rb"\n== Tell me [^\n]+\n\S", program.output) or
                        not program.reader.is_alive(), "the first token")
        seconds = time.monotonic() - begin
        program.note_files()
        self.assertEqual(program.wait_exit(), 0, program.log())
        answer = program.log().partition("\n== Tell me")[2].partition("\n")[2]
        self.assertGreater(len(answer.split()), 5, program.log())
        program.wait_gone(5)
        return seconds

    def test_second_run_answers_within_five_seconds(self):
        self.run_once()
        seconds = self.run_once()
        print(f"from the command to the first token: {seconds:.2f} s")
        self.assertLess(seconds, 5)

    def test_wrong_option(self):
        program = service.Program([str(SCRIPT), "--twice"])
        self.addCleanup(program.kill_all)
        self.assertEqual(program.wait_exit(), 2)
        self.assertIn("--once", program.log())

    def test_port_in_use(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            program = service.Program([str(SCRIPT), "--once", "--port", str(port)])
            self.addCleanup(program.kill_all)
            self.assertEqual(program.wait_exit(), 2)
            self.assertIn(f"port {port} is in use", program.log())


if __name__ == "__main__":
    built = SCRIPT.parent.parent / "build" / "cpu" / "launch" / "troupe"
    if os.path.realpath(service.BINARY) != os.path.realpath(built) or not shutil.which("apt-get"):
        print("skipped: quickstart.sh uses build/cpu, and this is not its program")
        raise SystemExit(77)
    service.main()
