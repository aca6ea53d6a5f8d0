"""`troupe simulate` and `troupe replay` as a user calls them: output, files, refusals."""
import json
import os
import stat
import subprocess
import tempfile
import unittest
import xml.etree.ElementTree
from pathlib import Path

BINARY = os.environ["TROUPE_BINARY"]
SMALL = ["--model", "llama-3-8b", "--count", "2", "--requests", "60",
         "--workload", "random:20-200/5-40"]


def run(*arguments):
    return subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True,
                          timeout=100, check=False)


class Command(unittest.TestCase):
    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))

    def succeed(self, *arguments):
        done = run(*arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def refuse(self, *arguments, names, code=2):
        """One line on stderr with all of `names`, and nothing of what was asked for."""
        done = run(*arguments)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        for name in names:
            self.assertIn(str(name), done.stderr)
        self.assertEqual(done.stdout, "")
        self.assertLessEqual(done.stderr.count("\n"), 2, done.stderr)

    def write(self, name, content):
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path


class SimulateTest(Command):
    def test_json_has_the_documented_keys(self):
        lines = self.succeed("simulate", *SMALL, "--tp", "1,2", "--json").splitlines()
        splits = [json.loads(line) for line in lines]
        self.assertEqual([(s["tp"], s["dp"]) for s in splits], [(1, 2), (2, 1)])
        for split in splits:
            self.assertEqual(list(split)[:7], ["tp", "dp", "output_tokens_per_s", "ttft_ms",
                                               "tpot_ms", "kv_peak", "pauses"])
            for summary in split["ttft_ms"], split["tpot_ms"]:
                self.assertEqual(list(summary), ["mean", "p50", "p99"])
                self.assertLessEqual(summary["p50"], summary["p99"])
            self.assertGreater(split["output_tokens_per_s"], 0)
            self.assertEqual(split["requests"], 60)
            self.assertTrue(0 < split["kv_peak"] <= 1)

    def test_is_the_same_every_time(self):
        def figures(text):
            return {k: v for k, v in json.loads(text).items() if k != "wall_s"}
        runs = [figures(self.succeed("simulate", *SMALL, "--tp", "2", "--json")) for _ in range(2)]
        self.assertEqual(*runs)

    def test_table_and_picture(self):
        svg = self.folder / "plot.svg"
        table = self.succeed("simulate", *SMALL, "--tp", "1,2", "--svg", svg)
        self.assertIn("llama-3-8b, weights fp8, KV fp8, 2 x h200", table)
        self.assertIn("tokens/s", table)
        root = xml.etree.ElementTree.parse(svg).getroot()
        self.assertEqual(root.tag, "{http://www.w3.org/2000/svg}svg")
        texts = [e.text for e in root.iter("{http://www.w3.org/2000/svg}text")]
        self.assertIn("1x2", texts)
        self.assertIn("2x1", texts)

    def test_workload_from_a_file(self):
        head = '{"format":"troupe-workload","version":1}\n'
        line = '{"prompt_tokens":50,"output_tokens":7,"arrival_s":0.5}\n'
        path = self.write("w.jsonl", head + line * 3)
        split = json.loads(self.succeed("simulate", "--workload", path, "--tp", "8", "--json"))
        self.assertEqual((split["requests"], split["output_tokens"]), (3, 21))
        for bad, where in ((head + line + '{"prompt_tokens":5', ":3:"), (line, ":1:"),
                           (head.replace("1}", "2}") + line, ":1: version 2"), ("", "is empty"),
                           (head + '{"prompt_tokens":1000000000000,"output_tokens":1}', ":2:"),
                           (b"\xff\x00" * 50, ":1:")):
            path = self.write("bad.jsonl", bad)
            self.refuse("simulate", "--workload", path, names=[path, where])

    def test_coefficients_from_a_file(self):
        source = Path(__file__).parents[2] / "gpu" / "sim" / "devices" / "h200.json"
        good = source.read_text()
        path = self.write("mine.json", good)
        mine, own = (json.loads(self.succeed("simulate", *SMALL, "--tp", "1", "--json", *how))
                     for how in (("--coefficients", path), ("--gpu", "h200")))
        self.assertEqual(mine["output_tokens_per_s"], own["output_tokens_per_s"])
        for bad, where in ((good[:300], ":"), (good.replace('"format": 1', '"format": 7'), ":2:"),
                           (good.replace("4.0e12", "-1"), "'kv_bytes_per_s'"),
                           (good.replace('"kv_bytes_per_s": 4.0e12,', ""), "'kv_bytes_per_s'"),
                           ("", "is empty"), ("[1]", ":1:")):
            path = self.write("bad.json", bad)
            self.refuse("simulate", *SMALL, "--coefficients", path, names=[path, where])

    def test_absurd_options(self):
        self.refuse("simulate", "--count", "0", names=["--count"])
        self.refuse("simulate", "--count", "128", "--tp", "128", names=["64", "heads"])
        self.refuse("simulate", "--tp", "3", names=["3", "--count"])
        self.refuse("simulate", "--tp", "0", names=["--tp"])
        self.refuse("simulate", "--workload", "random:1000000000000/1", names=["tokens"])
        self.refuse("simulate", "--workload", "random:60000/60000", "--requests", "10000000",
                    names=["1200000000000 tokens", "--requests"])
        self.refuse("simulate", "--workload", "nothing-like-it", names=["'nothing-like-it'"])
        self.refuse("simulate", "--model", "gpt-5", names=["gpt-5", "llama-3-70b"])
        self.refuse("simulate", "--gpu", "tpu", names=["tpu", "h200"])
        self.refuse("simulate", "--record", "/nowhere/x", "--tp", "8", names=["/nowhere/x"])
        self.refuse("simulate", "--record", "x", "--tp", "1,2", names=["--record"])
        self.refuse("simulate", *SMALL, "--fit", "/nowhere/table", names=["/nowhere/table"])

    def test_what_does_not_fit_is_said_beside_what_does(self):
        lines = self.succeed("simulate", "--model", "llama-3-405b", "--tp", "1,8", "--requests", "5",
                             "--workload", "random:20/5", "--json").splitlines()
        small, large = map(json.loads, lines)
        self.assertIn("error", small)
        self.assertGreater(large["output_tokens_per_s"], 0)
        alone = run("simulate", "--model", "llama-3-405b", "--tp", "1", "--requests", "5", "--json")
        self.assertEqual(alone.returncode, 1)


class ReplayTest(Command):
    def setUp(self):
        super().setUp()
        self.log = self.folder / "router.log"
        self.succeed("simulate", *SMALL, "--tp", "1", "--record", self.log)

    def test_takes_every_decision_again(self):
        text = self.succeed("replay", self.log)
        self.assertRegex(text, r"^60 requests, \d+ events, (\d+) decisions: 0 differ\n")
        self.assertEqual(stat.S_IMODE(self.log.stat().st_mode), 0o600)

    def test_steps_through_them(self):
        text = self.succeed("replay", self.log, "--from", "2", "--count", "3")
        heads = [line for line in text.splitlines() if line.startswith("decision ")]
        self.assertEqual([h.split()[1] for h in heads], ["2", "3", "4"])
        self.assertIn("  plan job ", text)
        everything = self.succeed("replay", self.log, "--count", "1000000")
        self.assertIn("request 60 ends: stop", everything)

    def test_against_another_build(self):
        text = self.succeed("replay", self.log, "--against", BINARY)
        self.assertIn("the other build takes the same ", text)
        # Another policy: it would have opened another row in decision 3.
        other = self.write("other", f'#!/bin/sh\n"{BINARY}" "$@" | '
                           'sed -e "/^decision 3 /s/digest ......../digest 00000000/"\n')
        other.chmod(0o755)
        done = run("replay", self.log, "--against", other)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertRegex(done.stdout, r"(?m)^- decision 3 at \d+ us, digest [0-9a-f]{8}$")
        self.assertRegex(done.stdout, r"(?m)^\+ decision 3 at \d+ us, digest 00000000$")
        self.assertNotIn("decision 2 ", done.stdout)
        # One that cannot read the log.
        other.write_text("#!/bin/sh\necho 'error: a log of version 7' >&2\nexit 2\n")
        done = run("replay", self.log, "--against", other)
        self.assertEqual(done.returncode, 1)
        self.assertIn("+ nothing: error: a log of version 7", done.stdout)
        self.refuse("replay", self.log, "--against", "/nowhere/troupe", names=["/nowhere/troupe"])

    def test_bad_logs_are_refused_with_the_offset(self):
        good = self.log.read_bytes()
        self.refuse("replay", self.folder / "none", names=["none"])
        for bad, where in ((good[:len(good) // 2], "cut short in the record at byte "),
                           (b"TRPLOX" + good[6:], "not a router log at byte 0"), (b"", "is empty"),
                           (good + b"x", f"bytes after the end at byte {len(good)}"),
                           (good[:6] + b"\x63" + good[7:], "a log of version 99")):
            path = self.write("bad.log", bad)
            self.refuse("replay", path, names=[path, where])
        half = self.write("half.log", good[:len(good) // 2])
        self.assertIn(": 0 differ", self.succeed("replay", half, "--partial"))

    def test_a_recording_simulation_survives_a_full_disk(self):
        done = run("simulate", *SMALL, "--tp", "1", "--record", "/dev/full", "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout)["requests"], 60)
        self.assertIn("recording to /dev/full has stopped: No space left", done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
