"""`serve --device sim:NAME`: the real gateway and mpirun over ranks that only take modelled time."""
import json
import os
import shutil
import subprocess
import tempfile
import time
import unittest

import service

SIM = ["--device", "sim:h200"]
BROWSER = next((b for b in ("chromium", "chromium-browser", "google-chrome") if shutil.which(b)), None)


class SimServeTest(unittest.TestCase):
    def test_streams_usage_and_equal_answers_from_two_replicas_of_two_ranks(self):
        with service.Service(*SIM, "--sim-model", "llama-3-8b", "--tp", "2", "--dp", "2") as server:
            server.wait_metric("troupe_replicas_ready", 2)
            self.assertEqual(len(server.rank_pids()), 4)
            streams = [server.stream(prompt="Once upon a time", max_tokens=50) for _ in range(8)]
            for stream in streams:
                self.assertEqual(stream.result().tokens(), streams[0].result().tokens())
                self.assertEqual(stream.usage["completion_tokens"], 50)
                self.assertEqual(stream.finish_reason(), "length")
            seeded = [server.complete(prompt="x", max_tokens=20, temperature=1, seed=seed,
                                      ignore_eos=True)
                      for seed in (1, 1, 2)]
            texts = [answer["choices"][0]["text"] for answer in seeded]
            self.assertEqual(texts[0], texts[1])
            self.assertNotEqual(texts[0], texts[2])
            tokens = server.post("/tokenize", {"prompt": "Once upon a time"}).json()["count"]
            self.assertEqual(streams[0].usage["prompt_tokens"], tokens)
            server.wait_idle()
            self.assertEqual(server.terminate(), 0)
            self.assertEqual(server.leftovers(), [])

    def test_pace_is_that_of_the_modelled_device(self):
        tokens = 100
        modelled = json.loads(subprocess.run(
            [service.BINARY, "simulate", "--model", "llama-3-70b", "--count", "1", "--tp", "1",
             "--weights", "fp8", "--kv", "fp8", "--requests", "1", "--workload",
             f"random:20/{tokens}", "--json"], capture_output=True, check=True).stdout)
        with service.Service(*SIM, "--sim-model", "llama-3-70b", "--weights", "fp8", "--kv",
                             "fp8") as server:
            begin = time.monotonic()
            stream = server.stream(prompt=list(range(1000, 1020)), max_tokens=tokens).result()
            took = time.monotonic() - begin
            self.assertEqual(stream.usage["completion_tokens"], tokens)
            # 70 GB of weights at 4 TB/s: no real CPU rank could do this, nor can time be skipped.
            self.assertGreater(took, 0.9 * modelled["seconds"])
            self.assertLess(took, 5 * modelled["seconds"])
            busy = server.metric("troupe_device_busy_seconds_total")
            self.assertAlmostEqual(busy, modelled["seconds"], delta=0.1 * modelled["seconds"])

    def test_pool_is_what_the_modelled_memory_holds(self):
        with service.Service(*SIM, "--sim-model", "llama-3-8b") as server:
            # 141 GB less 16 GB of bf16 weights, at 128 KiB a token.
            slots = server.metric("troupe_kv_slots")
            self.assertTrue(600_000 < slots < 1_100_000, slots)

    def test_dashboard_shows_it(self):
        with service.Service(*SIM, "--sim-model", "llama-3-8b", "--kv-tokens", "4000") as server:
            running = server.stream(prompt="Once upon a time", max_tokens=3000).wait_tokens(3)
            page = server.get("/dashboard")
            self.assertEqual(page.status, 200)
            self.assertIn("text/html", page.headers["Content-Type"])
            server.get("/dashboard/state")  # the first question starts the pictures
            state = service.wait_for(
                lambda: next((s for s in [server.get("/dashboard/state").json()]
                              if s["replicas"] and s["replicas"][0]["steps"]), None), "a picture")
            self.assertEqual(state["replicas"][0]["slots"], 4000)
            if BROWSER:
                self.assertIn("of 4,000 slots in use", self.browse(server))
            running.hang_up()
            server.wait_idle()

    def browse(self, server):
        profile = self.enterContext(tempfile.TemporaryDirectory())
        command = [BROWSER, "--headless", "--disable-gpu", "--disable-dev-shm-usage",
                   f"--user-data-dir={profile}", "--virtual-time-budget=3000", "--dump-dom",
                   f"http://127.0.0.1:{server.port}/dashboard"]
        if os.geteuid() == 0:
            command.insert(1, "--no-sandbox")  # Chromium has none for root
        return subprocess.run(command, capture_output=True, text=True, timeout=60,
                              check=True).stdout


class BadSimServeTest(unittest.TestCase):
    def refuse(self, *options, names):
        program = service.Program([service.BINARY, "serve", service.MODEL, "--port", "0", *options])
        self.addCleanup(program.kill_all)
        self.assertEqual(program.wait_exit(), 2, program.log())
        for name in names:
            self.assertIn(name, program.log())
        self.assertEqual(program.leftovers(), [])

    def test_absurd_options(self):
        self.refuse("--device", "sim:tpu", names=["sim:tpu", "sim:h200"])
        self.refuse(*SIM, "--sim-model", "gpt-5", names=["gpt-5", "llama-3-70b"])
        self.refuse("--device", "cpu", "--sim-model", "llama-3-8b", names=["--sim-model"])
        self.refuse(*SIM, "--tp", "0", "--dp", "0", names=["--dp"])
        self.refuse(*SIM, "--sim-model", "llama-3-8b", "--tp", "33", names=["33", "32", "heads"])
        self.refuse(*SIM, "--sim-model", "llama-3-405b", names=["does not fit"])
        self.refuse(*SIM, "--kv", "f32", names=["--kv", "bf16 or fp8"])
        self.refuse(*SIM, "--exact", names=["--exact"])
        self.refuse(*SIM, "--kv-tokens", "1000000000000", names=["--kv-tokens"])


if __name__ == "__main__":
    service.main()
