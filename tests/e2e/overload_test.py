"""More requests than the queue holds: the rest is told to come back, and memory stays bounded."""
import re
import unittest

import client
import service

QUEUE = 4
ROWS = 2


def resident_mb(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return int(re.search(r"VmRSS:\s+(\d+) kB", status.read())[1]) / 1024


class OverloadTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(
            service.Service("--max-queue", str(QUEUE), "--max-rows", str(ROWS)))

    def fill(self, max_tokens):
        """Occupies every row and every place in the queue."""
        streams = []
        for n in range(1, ROWS + QUEUE + 1):
            streams.append(self.server.stream(prompt="Fill", max_tokens=max_tokens))
            self.server.wait_metric("troupe_requests_running", min(n, ROWS))
            self.server.wait_metric("troupe_requests_queued", max(0, n - ROWS))
        return streams

    def test_the_rest_gets_429_and_the_accepted_finish(self):
        accepted = self.fill(300)
        for path, body in (("/v1/completions", {"prompt": "x"}),
                           ("/v1/completions", {"prompt": "x", "stream": True}),
                           ("/v1/chat/completions",
                            {"messages": [{"role": "user", "content": "x"}]})):
            refused = self.server.post(path, {"max_tokens": 1, **body})
            self.assertEqual(refused.status, 429, refused.body)
            self.assertGreaterEqual(int(refused.headers["Retry-After"]), 1)
            self.assertEqual(refused.error["type"], "rate_limit_error")
            self.assertEqual(refused.error["code"], "queue_full")
            self.assertTrue(refused.error["message"])
        self.assertEqual(self.server.get("/health").status, 200)
        self.assertEqual(self.server.get("/ready").status, 200)
        for stream in accepted:
            self.assertEqual(stream.result().usage["completion_tokens"], 300)
        self.server.wait_idle()
        self.assertEqual(self.server.complete(prompt="x", max_tokens=1)["usage"]
                         ["completion_tokens"], 1)

    def test_a_burst_is_either_served_or_refused(self):
        body = {"temperature": 0, "ignore_eos": True, "prompt": "Burst", "max_tokens": 4}
        streams = [client.Stream(self.server.port, body) for _ in range(200)]
        for stream in streams:
            stream.join(client.TIMEOUT)
        served = [s for s in streams if s.status == 200]
        refused = [s for s in streams if s.status == 429]
        self.assertEqual(len(served) + len(refused), 200, [s.failure for s in streams if s.failure])
        self.assertGreaterEqual(len(served), ROWS)
        texts = {s.result().text() for s in served}
        self.assertEqual(len(texts), 1)
        print(f"a burst of 200: {len(served)} served, {len(refused)} refused")

    def test_refusing_costs_no_memory(self):
        prompt = "word " * 20_000  # 100 kB that a refused request must not keep
        blockers = self.fill(1000)
        try:
            for _ in range(50):
                self.server.post("/v1/completions", {"prompt": prompt, "max_tokens": 1})
            before = resident_mb(self.server.pid)
            for _ in range(400):  # 40 MB if they were kept as text, more as tokens
                refused = self.server.post("/v1/completions", {"prompt": prompt, "max_tokens": 1})
                self.assertIn(refused.status, (400, 429))
            grown = resident_mb(self.server.pid) - before
        finally:
            for stream in blockers:
                stream.hang_up()
        self.server.wait_idle()
        print(f"400 refused requests of 100 kB: {grown:.1f} MB more")
        self.assertLess(grown, 16)


if __name__ == "__main__":
    service.main()
