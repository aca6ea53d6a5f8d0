"""kill -9 of the gateway: no process, port or shared memory outlives it for more than 5 s."""
import os
import signal
import socket
import time
import unittest

import client
import service


class GatewayLossTest(unittest.TestCase):
    def expect_gone(self, server):
        server.note_files()
        os.kill(server.pid, signal.SIGKILL)
        begin = time.monotonic()
        server.process.wait()
        server.wait_gone(5)
        print(f"all gone after {time.monotonic() - begin:.2f} s", flush=True)

    def test_kill_while_streaming(self):
        with service.Service("--dp", "2", "--tp", "1") as server:
            server.wait_metric("troupe_replicas_ready", 2)
            streams = [server.stream(prompt="Once upon a time", max_tokens=2000)
                       for _ in range(4)]
            for stream in streams:
                stream.wait_tokens(4)
            self.expect_gone(server)
            for stream in streams:
                stream.join(client.TIMEOUT)
                self.assertFalse(stream.done)
            with socket.socket() as port:
                self.assertNotEqual(port.connect_ex(("127.0.0.1", server.port)), 0)

    def test_kill_while_starting(self):
        server = service.Program([service.BINARY, "serve", service.MODEL, "--port", "0"])
        try:
            join_file = server.wait_line(r"troupe rank --join (\S+)")[1]
            server.files.add(os.path.dirname(join_file))
            client.wait_for(server.rank_pids, "a rank")
            self.expect_gone(server)
        finally:
            server.kill_all()
            print(server.log())

    def test_kill_with_a_frozen_rank(self):
        with service.Service() as server:
            os.kill(server.rank_pids()[0], signal.SIGSTOP)
            self.expect_gone(server)


if __name__ == "__main__":
    service.main()
