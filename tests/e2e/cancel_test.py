"""A client that hangs up: its slots and rows come free, and nobody else notices."""
import unittest

import service
from client import counts


class CancelTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(service.Service("--max-rows", "4", "--kv-tokens", "2048"))

    def cancelled(self):
        return self.server.metric("troupe_requests_finished_total", reason="cancelled")

    def test_hang_up_frees_the_request_and_leaves_others_alone(self):
        prompts = ["Once upon a time", "The first law of thermodynamics"]
        undisturbed = [self.server.stream(prompt=p, max_tokens=300).result() for p in prompts]
        before = self.cancelled()
        # The four rows of the replica, and one that waits for a row.
        stay = [self.server.stream(prompt=p, max_tokens=300) for p in prompts]
        leave = [self.server.stream(prompt="Tell me", max_tokens=500) for _ in range(2)]
        for stream in stay + leave:
            stream.wait_tokens(4)
        waiting = self.server.stream(prompt="At last", max_tokens=4)
        self.server.wait_metric("troupe_requests_queued", 1)
        for stream in leave:
            stream.hang_up()
        self.assertEqual(waiting.result().usage["completion_tokens"], 4)
        for stream, expected in zip(stay, undisturbed):
            self.assertEqual(stream.result().tokens(), expected.tokens())
            self.assertEqual(counts(stream.usage), counts(expected.usage))
        self.server.wait_idle()
        self.assertEqual(self.cancelled() - before, 2)

    def test_hang_up_while_waiting_and_without_streaming(self):
        before = self.cancelled()
        running = [self.server.stream(prompt="Go on", max_tokens=400) for _ in range(4)]
        for stream in running:
            stream.first.wait()
        waiting = [self.server.stream(prompt="Me too", max_tokens=10),
                   self.server.stream(prompt="And me", max_tokens=10, stream=False,
                                      stream_options=None)]
        self.server.wait_metric("troupe_requests_queued", 2)
        for stream in waiting:
            stream.hang_up()
        self.server.wait_metric("troupe_requests_queued", 0)
        for stream in running:
            stream.hang_up()
        self.server.wait_idle()
        self.assertEqual(self.cancelled() - before, 6)

    def test_every_row_and_slot_is_usable_afterwards(self):
        for _ in range(3):
            streams = [self.server.stream(prompt="Again", max_tokens=400) for _ in range(4)]
            for stream in streams:
                stream.first.wait()
                stream.hang_up()
        self.server.wait_idle()
        for stream in [self.server.stream(prompt="Now", max_tokens=8) for _ in range(4)]:
            stream.result()
        # Nearly the whole pool: fails if the slots of a client that left are kept.
        full = self.server.complete(prompt=[7] * 2020, max_tokens=8, ignore_eos=True)
        self.assertEqual(full["usage"]["total_tokens"], 2028)


if __name__ == "__main__":
    service.main()
