#!/usr/bin/env python3
"""The dashboard in headless Chromium: dashboard_browser_test.py FAKE_SERVER

The server shows the fixed picture of tests/support/picture.h. Exit code 77: no Chromium here.
"""
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest
import zlib
from collections import Counter

BROWSER = next((b for b in ("chromium", "chromium-browser", "google-chrome") if shutil.which(b)), None)
SERVER = ""


def pixels(png):
    """How often each (r, g, b) occurs in an 8-bit RGB or RGBA image without interlacing."""
    with open(png, "rb") as file:
        data = file.read()
    at, packed = 8, b""
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        if kind == b"IHDR":
            width, height, _, colours = struct.unpack(">IIBB", data[at + 8 : at + 18])
        if kind == b"IDAT":
            packed += data[at + 8 : at + 8 + size]
        at += size + 12
    raw, n = zlib.decompress(packed), 4 if colours == 6 else 3
    above, counts = bytearray(width * n), Counter()
    for y in range(height):
        start = y * (width * n + 1)
        method, line = raw[start], bytearray(raw[start + 1 : start + 1 + width * n])
        for x in range(width * n):  # PNG specification, chapter 9: filters
            a = line[x - n] if x >= n else 0
            b, c = above[x], above[x - n] if x >= n else 0
            if method == 4:
                p = a + b - c
                near = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
            line[x] = (line[x] + [0, a, b, (a + b) // 2, near if method == 4 else 0][method]) & 255
        counts.update(zip(line[0::n], line[1::n], line[2::n]))
        above = line
    return counts


class DashboardPage(unittest.TestCase):
    def serve(self, *arguments):
        server = subprocess.Popen([SERVER, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.addCleanup(server.wait)
        self.addCleanup(server.stdout.close)
        self.addCleanup(server.stdin.close)
        return f"http://127.0.0.1:{int(server.stdout.readline())}/dashboard"

    def browse(self, url, *options, expected=None):
        profile = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, profile, ignore_errors=True)
        command = [BROWSER, "--headless", "--disable-gpu", "--disable-dev-shm-usage",
                   "--hide-scrollbars", "--window-size=1280,1000", "--enable-logging=stderr",
                   f"--user-data-dir={profile}", "--virtual-time-budget=3000", *options, url]
        if os.geteuid() == 0:
            command.insert(1, "--no-sandbox")  # Chromium has none for root
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        # Errors of the page and violations of its policy.
        console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        if expected:
            console = [line for line in console if expected not in line]
        self.assertEqual(console, [])
        return done.stdout

    def test_shows_what_the_engine_says(self):
        page = self.browse(self.serve(), "--dump-dom")
        for text in ("Replica 0 (epoch 3): 350 of 1,000 slots in use, 150 cached, 2 of 8 rows",
                     "needs 3,100 slots, 2,950 predicted free at its peak", "others are first",
                     "median step 9.0 ms", "rank 0: step 8", "rank 1: step 7 (1 behind)",
                     "2 plans in flight", "20 of 64", "fake"):
            self.assertIn(text, page)
        self.assertIn('<form id="login" hidden="">', page)

    def test_draws_the_pool(self):
        picture = os.path.join(tempfile.mkdtemp(), "page.png")
        self.addCleanup(shutil.rmtree, os.path.dirname(picture))
        self.browse(self.serve(), f"--screenshot={picture}")
        seen = pixels(picture)
        # 500 free, 150 cached and 50 shared cells of equal size, and a little in the legend.
        free, cached, shared = seen[0x26, 0x31, 0x42], seen[0x5B, 0x6B, 0x85], seen[0xD5, 0xDB, 0xE6]
        self.assertGreater(shared, 50 * 16)
        self.assertAlmostEqual(free / shared, 10, delta=1)
        self.assertAlmostEqual(cached / shared, 3, delta=0.3)

    def test_asks_for_the_key(self):
        page = self.browse(self.serve("secret"), "--dump-dom", expected="status of 401")
        self.assertIn('<form id="login">', page)
        self.assertIn("wants an API key", page)
        self.assertNotIn("Replica 0", page.split("<template")[0])


if __name__ == "__main__":
    if BROWSER is None:
        print("skipped: no Chromium here (Debian: apt-get install chromium)")
        sys.exit(77)
    SERVER = sys.argv.pop(1)
    unittest.main()
