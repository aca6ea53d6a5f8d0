"""A second replica, started by hand, joins a running service, takes load and may go again."""
import contextlib
import json
import os
import signal
import socket
import ssl
import unittest

import client
import service

ROWS = 2


class JoinTest(unittest.TestCase):
    def setUp(self):
        self.server = self.enterContext(service.Service("--max-rows", str(ROWS), "--threads", "1"))

    def join(self, ranks=2, file=None):
        joined = service.Program(
            service.mpirun(ranks, service.BINARY, "rank", "--join",
                           file or self.server.join_file), service.MPI_ENVIRONMENT)
        self.addCleanup(lambda: print(f"--- the joined replica\n{joined.log()}"))
        self.addCleanup(joined.kill_all)
        return joined

    def streams(self, n, max_tokens):
        return [self.server.stream(prompt=f"Story number {i}:", max_tokens=max_tokens)
                for i in range(n)]

    def test_it_takes_load_and_its_loss_moves_its_requests(self):
        undisturbed = [s.result() for s in self.streams(2 * ROWS, 128)]
        joined = self.join()
        self.server.wait_metric("troupe_replicas_ready", 2)
        streams = self.streams(2 * ROWS, 128)
        # One replica has rows for half of them.
        self.server.wait_metric("troupe_requests_running", 2 * ROWS)
        for stream in streams:
            stream.wait_tokens(8)
        os.kill(joined.rank_pids()[-1], signal.SIGKILL)
        self.server.wait_metric("troupe_replicas_ready", 1)
        for stream, expected in zip(streams, undisturbed):
            self.assertEqual(stream.result().tokens(), expected.tokens())
        self.assertEqual(self.server.metric("troupe_replicas_lost_total"), 1)
        self.assertNotEqual(joined.wait_exit(), 0)
        client.wait_for(lambda: not joined.processes(), "the joined replica to be gone")
        # The service goes on, and takes another one, of another size.
        again = self.join(ranks=1)
        self.server.wait_metric("troupe_replicas_ready", 2)
        self.assertEqual(self.server.terminate(), 0)
        self.assertEqual(again.wait_exit(), 0)
        self.assertEqual(self.server.leftovers(), [])

    def test_loss_of_the_first_replica_leaves_the_joined_one_serving(self):
        self.join()
        self.server.wait_metric("troupe_replicas_ready", 2)
        streams = self.streams(2 * ROWS, 64)
        for stream in streams:
            stream.wait_tokens(4)
        os.kill(self.server.rank_pids()[0], signal.SIGKILL)
        for stream in streams:
            stream.result()
        self.server.wait_metric("troupe_replicas_ready", 2)  # restarted

    def test_strangers_at_the_rank_port_harm_nobody(self):
        with open(self.server.join_file, encoding="ascii") as file:
            port = json.load(file)["port"]
        running = self.server.stream(prompt="Once upon a time", max_tokens=64).wait_tokens(4)
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", port)) as plain:
                plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 10)
                with contextlib.suppress(ConnectionResetError):
                    while plain.recv(4096):
                        pass
            anyone = ssl.create_default_context()
            anyone.check_hostname = False
            anyone.verify_mode = ssl.CERT_NONE
            with socket.create_connection(("127.0.0.1", port)) as plain:
                # TLS 1.3: the client believes in the handshake until it reads.
                with self.assertRaises((ssl.SSLError, ConnectionError)):
                    with anyone.wrap_socket(plain) as secure:
                        secure.recv(1)
            socket.create_connection(("127.0.0.1", port)).close()
        self.assertEqual(running.result().usage["completion_tokens"], 64)
        self.assertEqual(self.server.metric("troupe_replicas_lost_total"), 0)

    def test_a_replica_that_may_not_join_is_told_why(self):
        with open(self.server.join_file, encoding="ascii") as file:
            text = file.read()
        for change, reason in ((("BEGIN CERTIFICATE", "BEGIN CERTIFICATF"), "certificate"),
                               ((f'"{service.MODEL}"', '"/nonexistent.gguf"'),
                                "/nonexistent.gguf"),
                               (('"max_rows": 2', '"max_rows": "two"'), "max_rows")):
            self.assertIn(change[0], text)
            with self.subTest(reason):
                path = os.path.join(self.server.run_directory, "bad.json")
                with open(path, "w", encoding="ascii") as file:
                    file.write(text.replace(*change))
                stranger = self.join(ranks=1, file=path)
                self.assertNotEqual(stranger.wait_exit(), 0)
                self.assertIn("error: ", stranger.log())
                self.assertIn(reason, stranger.log())
        self.assertEqual(self.server.complete(prompt="x", max_tokens=1)["usage"]
                         ["completion_tokens"], 1)
        self.assertEqual(self.server.metric("troupe_replicas_ready"), 1)


if __name__ == "__main__":
    service.main()
