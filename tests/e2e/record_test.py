"""`serve --record` under load, then `replay`: the same decisions, in few bytes; full disks.

TROUPE_TEST_REQUESTS says how many requests the load has (500).
"""
import json
import os
import re
import signal
import stat
import subprocess
import tempfile
import unittest
from pathlib import Path

import service

REQUESTS = int(os.environ.get("TROUPE_TEST_REQUESTS", "500"))
SIM = ["--device", "sim:h200", "--sim-model", "llama-3-8b"]


def load(server, requests, *options):
    """Puts load on the server; every request must succeed."""
    done = subprocess.run(
        [service.BINARY, "bench", "serve", f"http://127.0.0.1:{server.port}", "--requests",
         str(requests), "--vocab", "40000", "--warmup", "0", "--json", "-", *options],
        capture_output=True, text=True, timeout=280, check=True)
    report = json.loads(done.stdout)
    assert report["failed"] == 0 and report["requests"] == requests, report
    return report


class RecordTest(unittest.TestCase):
    def setUp(self):
        self.log = Path(self.enterContext(tempfile.TemporaryDirectory())) / "router.log"

    def replay(self, *options):
        done = subprocess.run([service.BINARY, "replay", str(self.log), *options],
                              capture_output=True, text=True, timeout=280, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        print(done.stdout, flush=True)
        match = re.search(r"^(\d+) requests, \d+ events, (\d+) decisions: (\d+) differ\n.*: "
                          r"([\d.]+) bytes each\n", done.stdout)
        return int(match[1]), int(match[2]), int(match[3]), float(match[4])

    def test_a_served_log_replays_without_a_difference(self):
        with service.Service(*SIM, "--tp", "2", "--dp", "2", "--max-rows", "32", "--kv-tokens",
                             "6000", "--record", str(self.log)) as server:
            server.files.discard(str(self.log))  # stays
            server.wait_metric("troupe_replicas_ready", 2)
            report = load(server, REQUESTS, "--concurrency", "64", "--input-tokens", "20:400",
                          "--output-tokens", "5:60")
            print(json.dumps(report), flush=True)
            # Everything that a request can carry, a cancel, a stop string, a forgotten cache.
            running = server.stream(prompt="Once upon a time", max_tokens=2000).wait_tokens(3)
            server.complete(prompt="a", max_tokens=9, temperature=0.5, top_k=3, top_p=0.5, seed=1,
                            presence_penalty=1, logit_bias={"5": 1}, min_tokens=2, priority=2,
                            cache_salt="s", n=2, stop="e")
            self.assertEqual(server.post("/reset_prefix_cache", {}).status, 200)
            running.hang_up()
            server.wait_idle()
            self.assertEqual(server.terminate(), 0)
            self.assertEqual(server.leftovers(), [])
        requests, decisions, differing, bytes_each = self.replay()
        self.assertEqual(requests, REQUESTS + 3)
        self.assertGreater(decisions, REQUESTS)
        self.assertEqual(differing, 0)
        self.assertLessEqual(bytes_each, 16)
        self.assertEqual(stat.S_IMODE(self.log.stat().st_mode), 0o600)

    def test_a_lost_replica_is_in_the_log(self):
        with service.Service(*SIM, "--record", str(self.log)) as server:
            streams = [server.stream(prompt=f"Story {i}", max_tokens=300) for i in range(6)]
            for stream in streams:
                stream.wait_tokens(5)
            os.kill(server.rank_pids()[0], signal.SIGKILL)
            for stream in streams:
                self.assertEqual(stream.result().usage["completion_tokens"], 300)
            server.wait_idle()
            self.assertEqual(server.terminate(), 0)
        requests, _, differing, _ = self.replay()
        self.assertEqual((requests, differing), (6, 0))

    def test_a_killed_server_leaves_a_log_that_replays_in_part(self):
        with service.Service(*SIM, "--record", str(self.log)) as server:
            load(server, 20, "--concurrency", "4", "--input-tokens", "20", "--output-tokens", "20")
            # What waits to be written goes to the file once a second.
            service.wait_for(lambda: self.log.stat().st_size > 20 * 20 * 2, "some of the log")
            server.process.kill()
            server.wait_exit()
        done = subprocess.run([service.BINARY, "replay", str(self.log)], capture_output=True,
                              text=True, check=False)
        self.assertEqual(done.returncode, 2)
        self.assertRegex(done.stderr, r"cut short in the record at byte \d+")
        requests, decisions, differing, _ = self.replay("--partial")
        self.assertTrue(0 < requests <= 20, requests)
        self.assertGreater(decisions, 0)
        self.assertEqual(differing, 0)

    def test_the_limit_ends_the_log_and_nothing_else(self):
        with service.Service(*SIM, "--record", str(self.log), "--record-limit", "1") as server:
            load(server, 300, "--concurrency", "32", "--input-tokens", "2000", "--output-tokens", "4")
            server.wait_line("warning .*recording to .* has stopped: the log is at its limit")
            self.assertEqual(server.terminate(), 0)
        self.assertLessEqual(self.log.stat().st_size, 1 << 20)
        self.assertGreater(self.log.stat().st_size, 1 << 19)
        self.assertEqual(self.replay()[2], 0)

    def test_a_full_disk_ends_the_log_and_nothing_else(self):
        with service.Service(*SIM, "--record", "/dev/full") as server:
            load(server, 200, "--concurrency", "16", "--input-tokens", "20", "--output-tokens", "4")
            server.wait_line("recording to /dev/full has stopped: No space left on device")
            load(server, 50, "--concurrency", "16", "--input-tokens", "20", "--output-tokens", "4")
            self.assertEqual(server.log().count("has stopped"), 1)
            self.assertEqual(server.terminate(), 0)

    def test_a_file_that_may_not_grow_ends_whole(self):
        # In one process: mpirun's own files are larger than that.
        with service.Service(*SIM, "--in-process", "--record", str(self.log),
                             command=["prlimit", "--fsize=300000"]) as server:
            load(server, 200, "--concurrency", "32", "--input-tokens", "2000", "--output-tokens", "4")
            server.wait_line("recording to .* has stopped: File too large")
            load(server, 20, "--concurrency", "4", "--input-tokens", "20", "--output-tokens", "4")
            self.assertEqual(server.terminate(), 0)
        self.assertLessEqual(self.log.stat().st_size, 300000)
        self.assertEqual(self.replay()[2], 0)

    def test_a_file_that_cannot_be_written_is_refused_at_start(self):
        program = service.Program([service.BINARY, "serve", service.MODEL, "--port", "0", *SIM,
                                   "--record", "/nowhere/router.log"])
        self.addCleanup(program.kill_all)
        self.assertEqual(program.wait_exit(), 2)
        self.assertIn("cannot record to /nowhere/router.log: No such file", program.log())


if __name__ == "__main__":
    service.main()
