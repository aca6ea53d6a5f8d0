"""`mpirun -n N troupe serve MODEL`: process 0 is the gateway and rank 0, nobody supervises."""
import os
import signal
import unittest

import client
import service


class HostedTest(unittest.TestCase):
    def setUp(self):
        self.server = self.enterContext(service.Service(
            command=service.mpirun(2), environment=service.MPI_ENVIRONMENT))

    def processes(self):
        """Process 0 and process 1."""
        by_rank = {}
        for pid in self.server.pids(service.BINARY + " serve "):
            with open(f"/proc/{pid}/environ", "rb") as file:
                for entry in file.read().split(b"\0"):
                    if entry.startswith(b"OMPI_COMM_WORLD_RANK="):
                        # The helper that removes the run directory is younger.
                        by_rank.setdefault(int(entry.partition(b"=")[2]), pid)
        return by_rank[0], by_rank[1]

    def test_it_serves_what_the_supervised_form_serves(self):
        options = dict(prompt="Once upon a time", max_tokens=32)
        hosted = self.server.stream(**options).result().tokens()
        with service.Service() as supervised:
            self.assertEqual(supervised.stream(**options).result().tokens(), hosted)

    def test_sigterm_to_the_gateway_drains(self):
        running = self.server.stream(prompt="Once upon a time", max_tokens=200).wait_tokens(4)
        os.kill(self.processes()[0], signal.SIGTERM)
        client.wait_for(lambda: self.server.get("/ready").status == 503, "/ready to say 503")
        self.assertEqual(running.result().usage["completion_tokens"], 200)
        self.assertEqual(self.server.wait_exit(), 0)
        self.server.wait_gone(5)

    def test_loss_of_a_rank_ends_everything(self):
        stream = self.server.stream(prompt="Once upon a time", max_tokens=4000).wait_tokens(4)
        self.server.note_files()
        os.kill(self.processes()[1], signal.SIGKILL)
        self.assertNotEqual(self.server.wait_exit(), 0)
        stream.join(client.TIMEOUT)
        self.assertFalse(stream.done)
        self.server.wait_gone(5)

    def test_kill_of_mpirun_leaves_nothing(self):
        self.server.note_files()
        os.kill(self.server.pid, signal.SIGKILL)
        self.server.process.wait()
        client.wait_for(lambda: not self.server.processes(), "all processes to be gone", 5)
        self.assertFalse(os.path.exists(self.server.run_directory))

    def test_interrupt_at_the_terminal(self):
        self.server.note_files()
        self.server.process.send_signal(signal.SIGINT)
        self.server.wait_exit()
        self.server.wait_gone(5)


if __name__ == "__main__":
    service.main()
