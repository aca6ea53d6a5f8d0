"""SIGTERM: running streams end well, new requests are told to go elsewhere."""
import signal
import threading
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
        self.assertIn("shutting down", running.ended_by_the_server()["message"])
        self.assertEqual(self.server.leftovers(), [])


class DrainTimeoutTest(unittest.TestCase):
    def test_the_time_limit_ends_what_still_runs_and_says_so(self):
        # One row: the second stream and the whole answer never start.
        with service.Service("--drain-timeout", "1", "--max-rows", "1") as server:
            body = dict(prompt="Once upon a time", max_tokens=8000)
            running = server.stream(**body).wait_tokens(4)
            chat = client.Stream(server.port, dict(
                messages=[{"role": "user", "content": "Hi"}], max_tokens=8000),
                path="/v1/chat/completions")
            answers = []
            whole = threading.Thread(
                target=lambda: answers.append(server.post("/v1/completions", body)), daemon=True)
            whole.start()
            server.wait_metric("troupe_requests_queued", 2)
            self.assertEqual(server.terminate(), 0)
            for stream in running, chat:
                error = stream.ended_by_the_server()
                self.assertEqual(error["code"], "unavailable")
                self.assertIn("shutting down", error["message"])
            self.assertGreater(len(running.times), 4)
            self.assertEqual(chat.times, [])
            whole.join(client.TIMEOUT)
            self.assertEqual(answers[0].status, 503)
            self.assertIn("shutting down", answers[0].error["message"])
            self.assertIn("Retry-After", answers[0].headers)
            self.assertIn("--drain-timeout is over", server.log())
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
