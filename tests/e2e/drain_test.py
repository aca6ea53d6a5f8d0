"""SIGTERM: running streams end well, new requests are told to go elsewhere."""
import signal
import unittest

import client
import service


class DrainTest(unittest.TestCase):
    def setUp(self):
        self.server = self.enterContext(service.Service())

    def drain(self):
        self.server.process.send_signal(signal.SIGTERM)
        client.wait_for(lambda: self.server.get("/ready").status == 503, "/ready to say 503")

    def test_running_streams_complete_and_new_requests_are_refused(self):
        options = dict(prompt="Once upon a time", max_tokens=300)
        expected = self.server.stream(**options).result()
        running = self.server.stream(**options).wait_tokens(4)
        self.drain()
        self.assertEqual(self.server.get("/health").status, 200)
        refused = self.server.post("/v1/completions", {"prompt": "x", "max_tokens": 1})
        self.assertEqual(refused.status, 503, refused.body)
        self.assertEqual(refused.headers["Connection"], "close")
        self.assertIn("Retry-After", refused.headers)
        self.assertIn("shutting down", refused.error["message"])
        self.assertTrue(running.is_alive(), "the stream ended before it was drained")
        self.assertEqual(running.result().tokens(), expected.tokens())
        self.assertEqual(self.server.wait_exit(), 0)
        self.assertEqual(self.server.leftovers(), [])

    def test_a_second_signal_ends_it_at_once(self):
        running = self.server.stream(prompt="Once upon a time", max_tokens=8000).wait_tokens(4)
        self.drain()
        self.server.process.send_signal(signal.SIGINT)
        self.assertEqual(self.server.wait_exit(), 128 + signal.SIGINT)
        running.join(client.TIMEOUT)
        self.assertFalse(running.done)
        self.assertEqual(self.server.leftovers(), [])


class DrainTimeoutTest(unittest.TestCase):
    def test_the_time_limit_ends_what_still_runs(self):
        with service.Service("--drain-timeout", "1") as server:
            running = server.stream(prompt="Once upon a time", max_tokens=8000).wait_tokens(4)
            self.assertEqual(server.terminate(), 0)
            running.join(client.TIMEOUT)
            self.assertFalse(running.done)
            self.assertEqual(server.leftovers(), [])


class IdleTest(unittest.TestCase):
    def test_an_idle_server_leaves_at_once_with_a_kept_connection(self):
        with service.Service("--in-process") as server:
            kept = client.http.client.HTTPConnection("127.0.0.1", server.port)
            kept.request("GET", "/health")
            kept.getresponse().read()
            self.assertEqual(server.terminate(), 0)
            self.assertEqual(server.leftovers(), [])
            kept.close()


if __name__ == "__main__":
    service.main()
