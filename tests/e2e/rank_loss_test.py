"""Ranks and mpirun die or freeze under open streams: the streams only pause."""
import os
import signal
import unittest

import client
import service

PROMPTS = ["Once upon a time", "The capital of France is", "def fibonacci(n):",
           "Water boils at", "My favourite colour", "In the year 1969", "To bake bread, you",
           "The opposite of love"]
TOKENS = 96


class RankLossTest(unittest.TestCase):
    def setUp(self):
        self.server = self.enterContext(service.Service())

    def streams(self):
        return [self.server.stream(prompt=p, max_tokens=TOKENS) for p in PROMPTS]

    def lose(self, break_it):
        """Breaks something with 8 streams open; they must end as if nothing had happened.
        Returns the longest pause in seconds."""
        undisturbed = [s.result() for s in self.streams()]
        streams = self.streams()
        for stream in streams:
            stream.wait_tokens(10)
        break_it()
        for stream, expected in zip(streams, undisturbed):
            self.assertEqual(stream.result().tokens(), expected.tokens())
            self.assertEqual(stream.usage["completion_tokens"], TOKENS)
            self.assertEqual(stream.finish_reason(), "length")
        self.server.wait_idle()
        self.assertEqual(self.server.metric("troupe_replicas_lost_total"), 1)
        self.assertEqual(self.server.metric("troupe_replicas_ready"), 1)
        self.assertEqual(len(self.server.rank_pids()), 2)
        self.server.note_files()
        self.assertEqual(self.server.terminate(), 0)
        self.assertEqual(self.server.leftovers(), [])
        pause = max(s.longest_pause() for s in streams)
        print(f"longest pause {pause:.2f} s, undisturbed "
              f"{max(s.longest_pause() for s in undisturbed):.2f} s", flush=True)
        return pause

    def test_kill_of_a_rank(self):
        pause = self.lose(lambda: os.kill(self.server.rank_pids()[1], signal.SIGKILL))
        self.assertLessEqual(pause, 5)

    def test_kill_of_rank_zero(self):
        self.lose(lambda: os.kill(self.server.rank_pids()[0], signal.SIGKILL))

    def test_freeze_of_a_rank(self):
        self.lose(lambda: os.kill(self.server.rank_pids()[1], signal.SIGSTOP))

    def test_kill_of_mpirun(self):
        self.lose(lambda: os.kill(self.server.pids("mpirun")[0], signal.SIGKILL))


class GivingUpTest(unittest.TestCase):
    def test_a_replica_that_keeps_dying_ends_the_service(self):
        with service.Service() as server:
            stream = server.stream(prompt="Once upon a time", max_tokens=4000)
            for loss in range(4):
                client.wait_for(lambda: len(server.rank_pids()) == 2, "two ranks")
                server.wait_metric("troupe_replicas_ready", 1)
                server.note_files()
                os.kill(server.rank_pids()[0], signal.SIGKILL)
                if loss < 3:
                    server.wait_metric("troupe_replicas_lost_total", loss + 1)
            self.assertEqual(server.wait_exit(), 75)
            self.assertIn("lost 4 times within 60 s", server.log())
            self.assertEqual(stream.ended_by_the_server()["code"], "unavailable")
            self.assertGreater(len(stream.times), 0)
            server.wait_gone(5)


if __name__ == "__main__":
    service.main()
