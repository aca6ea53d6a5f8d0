#!/usr/bin/env python3
"""The bars of RESULTS.md, against llama.cpp on the same machine, file and number of threads.

    tests/bench/peer_llama_cpp.py MODEL.gguf [--build build/cpu] [--rounds 5] [--only CASE,...]

Makes a virtual environment with llama-cpp-python (built for this machine, some minutes, once) and
goes on inside it. Starts `troupe serve MODEL --tp RANKS`, then in every round measures each case
with llama.cpp, through our HTTP and in the bare executor loop, one right after the other: machines
drift, so only figures of one round may be compared. Prints one JSON line per case with the medians
and the median of the rounds' ratios; notes go to stderr. Use an otherwise idle machine.

Speeds are tokens per second. `decode` counts from the first token to the last, `batch` all tokens
from the first request's start to the last one's end, `prefill` prompt tokens over the time to the
first token. The bare loop decodes only, so `http_to_bare` takes our decode alone for `batch` too
(http_steady: streams / median time per token). llama.cpp is called through its C functions (llama_decode and its greedy sampler), with
its batched decode for `batch`, and no HTTP: the bars hold in spite of ours.
"""
import argparse
import contextlib
import json
import os
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.request

PEER = "llama-cpp-python==0.3.36"
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))

# name: kind, streams, prompt tokens, answer tokens, case of executor_bench, bar, goal
CASES = {
    "decode_1_after_16": ("decode", 1, 16, 128, "decode_1_after_16", 1.2, 2),
    "batch_16_after_16": ("batch", 16, 16, 64, "decode_16_after_16", 2, 4),
    "prefill_512": ("prefill", 1, 512, 1, "prefill_512", 2, 4),
    "prefill_1024": ("prefill", 1, 1024, 1, "prefill_1024", 2, 4),
    "decode_1_after_1024": ("decode", 1, 1024, 64, "decode_1_after_1024", 1.3, 2),
}


def note(text):
    print(text, file=sys.stderr, flush=True)


def enter_peer_environment(venv):
    """Restarts this script in a Python that has the peer."""
    try:
        import llama_cpp  # noqa: F401

        return
    except ImportError:
        pass
    python = venv / "bin" / "python"
    if not python.exists():
        note(f"making {venv}; building {PEER} takes some minutes")
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        flags = "-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF"
        subprocess.run(
            [python, "-m", "pip", "install", "--no-binary", "llama-cpp-python", PEER],
            check=True,
            stdout=sys.stderr,
            env=dict(os.environ, CMAKE_ARGS=flags),
        )
    os.execv(python, [str(python), *sys.argv])


class Peer:
    """llama.cpp through its C functions."""

    def __init__(self, model, threads):
        import llama_cpp as c

        self.c = c
        self.silent = c.llama_log_callback(lambda *_: None)  # kept alive by this reference
        c.llama_log_set(self.silent, None)
        c.llama_backend_init()
        self.model = c.llama_model_load_from_file(
            str(model).encode(), c.llama_model_default_params()
        )
        params = c.llama_context_default_params()
        params.n_ctx = 4096
        params.n_batch = params.n_ubatch = 512
        params.n_seq_max = 16
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = True
        self.context = c.llama_init_from_model(self.model, params)
        self.greedy = c.llama_sampler_init_greedy()
        self.batch = c.llama_batch_init(512, 0, 16)
        self.vocab = c.llama_vocab_n_tokens(c.llama_model_get_vocab(self.model))

    def decode(self, entries):
        """entries: (token, position, sequence, wants logits)."""
        batch = self.batch
        for i, (token, position, sequence, logits) in enumerate(entries):
            batch.token[i] = token
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = logits
        batch.n_tokens = len(entries)
        if self.c.llama_decode(self.context, batch) != 0:
            raise RuntimeError("llama_decode failed")

    def prefill(self, prompt, sequence=0):
        for begin in range(0, len(prompt), 512):
            chunk = prompt[begin : begin + 512]
            self.decode(
                [
                    (token, begin + i, sequence, begin + i + 1 == len(prompt))
                    for i, token in enumerate(chunk)
                ]
            )
        return self.c.llama_sampler_sample(self.greedy, self.context, -1)

    def measure(self, kind, streams, n_prompt, n_answer, seed):
        self.c.llama_memory_clear(self.c.llama_get_memory(self.context), True)
        rng = random.Random(seed)
        prompts = [[rng.randrange(100, 32000) for _ in range(n_prompt)] for _ in range(streams)]
        begin = time.perf_counter()
        last = [self.prefill(prompt, s) for s, prompt in enumerate(prompts)]
        if kind == "prefill":
            return n_prompt / (time.perf_counter() - begin)
        # For `batch` the peer's prefills stay outside of its time: its figure is its decode alone.
        begin = time.perf_counter()
        for step in range(n_answer - 1):
            self.decode([(token, n_prompt + step, s, True) for s, token in enumerate(last)])
            last = [
                self.c.llama_sampler_sample(self.greedy, self.context, s) for s in range(streams)
            ]
        return streams * (n_answer - 1) / (time.perf_counter() - begin)


class Service:
    """`troupe serve` and everything it started."""

    def __init__(self, troupe, model, ranks):
        environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
        self.begin = time.perf_counter()
        self.process = subprocess.Popen(
            [troupe, "serve", model, "--port", "0", "--tp", str(ranks), "--kv-tokens", "8192"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        self.log = []
        for line in self.process.stdout:
            self.log.append(line)
            if " ready at " in line:
                break
        else:
            raise RuntimeError("the service did not start:\n" + "".join(self.log))
        self.ready_s = time.perf_counter() - self.begin
        self.url = line.split(" ready at ")[1].split()[0]
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def first_token_s(self):
        """From the command to the first token of a short prompt."""
        body = json.dumps({"model": self.model(), "prompt": list(range(100, 116)), "max_tokens": 1})
        request = urllib.request.Request(
            self.url + "/v1/completions", body.encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            answer.read()
        return time.perf_counter() - self.begin

    def model(self):
        with urllib.request.urlopen(self.url + "/v1/models") as answer:
            return json.load(answer)["data"][0]["id"]

    def private_bytes(self):
        total = 0
        for pid in descendants(self.process.pid):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Private_"):
                        total += int(line.split()[1]) * 1024
        return total

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def descendants(root):
    children = {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            pid, rest = stat.parent.name, stat.read_text().rsplit(")", 1)[1].split()
            children.setdefault(int(rest[1]), []).append(int(pid))
    found, queue = [], [root]
    while queue:
        pid = queue.pop()
        found.append(pid)
        queue += children.get(pid, [])
    return found


def ours_http(troupe, url, kind, streams, n_prompt, n_answer, seed):
    run = subprocess.run(
        [troupe, "bench", "serve", url, "--json", "-", "--warmup", "0", "--seed", str(seed)]
        + ["--concurrency", str(streams), "--requests", str(streams)]
        + ["--input-tokens", str(n_prompt), "--output-tokens", str(n_answer)],
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads(run.stdout)
    if kind == "prefill":
        speed = 1000 * n_prompt / report["ttft_ms"]["p50"]
        return speed, speed
    steady = streams * 1000 / report["tpot_ms"]["p50"]
    return (report["output_tokens_per_s"] if kind == "batch" else steady), steady


def ours_bare(bench, model, ranks, case):
    run = subprocess.run(
        ["mpirun", "-n", str(ranks), "--allow-run-as-root", "--oversubscribe"]
        + ["--mca", "mpi_yield_when_idle", "1"]
        + [bench, model, "--repeat", "2", "--only", case],
        capture_output=True,
        text=True,
        check=True,
    )
    for line in run.stdout.splitlines():
        figures = json.loads(line)
        if figures["case"] == case:
            return figures["tokens_per_s"]
    raise RuntimeError(run.stdout)


def compare(arguments, machine, commit):
    build = arguments.build
    troupe, bench = build / "launch" / "troupe", build / "tests" / "bench" / "executor_bench"
    peer = Peer(arguments.model, arguments.ranks)
    service = Service(troupe, arguments.model, arguments.ranks)
    try:
        figures = {name: {"peer": [], "http": [], "http_steady": [], "bare": []} for name in arguments.only}
        for round_ in range(-1, arguments.rounds):  # round -1 warms up
            for case, name in enumerate(arguments.only):
                kind, streams, n_prompt, n_answer, bare, _, _ = CASES[name]
                seed = 1000 * (case + 1) + round_  # no case finds another's prompt in our cache
                shape = (kind, streams, n_prompt, n_answer, seed)
                one = {"peer": peer.measure(*shape)}
                one["http"], one["http_steady"] = ours_http(troupe, service.url, *shape)
                one["bare"] = ours_bare(bench, arguments.model, arguments.ranks, bare)
                note(f"round {round_} {name}: " + str({k: round(v, 1) for k, v in one.items()}))
                if round_ >= 0:
                    for key, value in one.items():
                        figures[name][key].append(value)
        private = service.private_bytes()
    finally:
        service.stop()
    for name, of in figures.items():
        _, _, _, _, _, bar, goal = CASES[name]
        ratio = statistics.median(h / p for h, p in zip(of["http"], of["peer"]))
        print_line(
            machine,
            commit,
            case=name,
            ranks=arguments.ranks,
            rounds=arguments.rounds,
            **{f"{key}_tokens_per_s": round(statistics.median(v), 1) for key, v in of.items()},
            ratio=round(ratio, 2),
            bare_ratio=round(statistics.median(b / p for b, p in zip(of["bare"], of["peer"])), 2),
            http_to_bare=round(
                statistics.median(h / b for h, b in zip(of["http_steady"], of["bare"])), 3
            ),
            bar=bar,
            goal=goal,
            passes=ratio >= bar,
        )
    limit = 350e6 + arguments.model.stat().st_size
    print_line(
        machine,
        commit,
        case="memory",
        ranks=arguments.ranks,
        private_mb=round(private / 1e6, 1),
        bar_mb=round(limit / 1e6, 1),
        passes=private <= limit,
    )


def measure_start(arguments, machine, commit):
    troupe = arguments.build / "launch" / "troupe"
    ready, first = [], []
    for _ in range(arguments.rounds + 1):
        service = Service(troupe, arguments.model, arguments.ranks)
        first.append(service.first_token_s())
        ready.append(service.ready_s)
        service.stop()
    ready, first = statistics.median(ready[1:]), statistics.median(first[1:])
    print_line(
        machine,
        commit,
        case="start",
        ranks=arguments.ranks,
        rounds=arguments.rounds,
        ready_s=round(ready, 3),
        ready_bar_s=1.5,
        first_token_s=round(first, 3),
        first_token_bar_s=2,
        passes=ready <= 1.5 and first <= 2,
    )


def print_line(machine, commit, **figures):
    print(
        json.dumps(
            {"bench": "peer_llama_cpp", "peer": PEER, "commit": commit, **machine, **figures}
        ),
        flush=True,
    )


def describe_machine():
    info = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    model = next((l.split(":")[1].strip() for l in info if l.startswith("model name")), "unknown")
    return {"cpu": model, "cores": len(os.sched_getaffinity(0))}


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the service is stopped
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--build", type=pathlib.Path, default=pathlib.Path("build/cpu"))
    parser.add_argument("--venv", type=pathlib.Path, default=CACHE / "troupe" / "peer-venv")
    parser.add_argument("--ranks", type=int, default=2, help="ours; the peer gets as many threads")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        default=[*CASES, "start"],
        help="some of: " + ",".join([*CASES, "start"]),
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.only) - {*CASES, "start"}:
        parser.error(f"unknown case {', '.join(sorted(unknown))}")
    cases = [name for name in arguments.only if name != "start"]
    if cases:
        enter_peer_environment(arguments.venv)
    machine = describe_machine()
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True
    ).stdout.strip()
    if "start" in arguments.only:
        measure_start(arguments, machine, commit)
    if cases:
        arguments.only = cases
        compare(arguments, machine, commit)


if __name__ == "__main__":
    main()
