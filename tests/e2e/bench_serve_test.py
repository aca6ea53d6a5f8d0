#!/usr/bin/env python3
"""`troupe bench serve` against a gateway without a model: bench_serve_test.py TROUPE FAKE_SERVER

The fake answers every request with one letter a token, one request after the other.
"""
import json
import subprocess
import sys


def bench(troupe, url, *options):
    run = subprocess.run(
        [troupe, "bench", "serve", url, "--json", "-", *options],
        capture_output=True,
        text=True,
        timeout=50,
    )
    return run, json.loads(run.stdout) if run.stdout else None


def check_closed_loop(troupe, url):
    run, report = bench(
        troupe, url, "--concurrency", "3", "--requests", "8", "--warmup", "1",
        "--input-tokens", "5:9", "--output-tokens", "4",
        "--slo-ttft", "60000", "--slo-tpot", "60000", "--vocab", "200",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert report["requests"] == 8 and report["failed"] == 0, report
    assert report["output_tokens"] == 8 * 4, report
    assert 8 * 5 <= report["input_tokens"] <= 8 * 9, report
    assert report["ttft_ms"]["n"] == 8 and report["itl_ms"]["n"] == 8 * 3, report
    assert 0 < report["ttft_ms"]["p50"] <= report["e2e_ms"]["p99"], report
    assert report["good"] == 8, report
    assert report["load"]["concurrency"] == 3, report
    assert "first token (TTFT)" in run.stderr, run.stderr


def check_open_loop(troupe, url):
    rate, n = 50, 10
    run, report = bench(
        troupe, url, "--rate", str(rate), "--requests", str(n), "--endpoint", "chat",
        "--input-tokens", "4", "--output-tokens", "2", "--seed", "3",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert report["failed"] == 0 and report["output_tokens"] == 2 * n, report
    assert report["load"]["rate"] == rate, report


def check_errors(troupe, url):
    run, report = bench(troupe, url, "--warmup", "0", "--requests", "2", "--input-tokens", "600")
    assert run.returncode == 1, run
    assert report["failed"] == 2, report
    assert all(text.startswith("400: ") for text in report["errors"]), report
    run, _ = bench(troupe, url, "--input-tokens", "600")
    assert run.returncode == 1 and "warm-up" in run.stderr, run
    run, _ = bench(troupe, "http://127.0.0.1:1")
    assert run.returncode == 1 and "troupe serve MODEL" in run.stderr, run


def main():
    troupe, fake_server = sys.argv[1:3]
    with subprocess.Popen(
        [fake_server], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            url = f"http://127.0.0.1:{int(server.stdout.readline())}"
            check_closed_loop(troupe, url)
            check_open_loop(troupe, url)
            check_errors(troupe, url)
        finally:
            server.stdin.close()


if __name__ == "__main__":
    main()
