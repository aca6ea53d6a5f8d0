#!/usr/bin/env python3
"""Drives a server with the unmodified `openai` package.

  openai_client_test.py --base-url http://127.0.0.1:8000/v1 --model NAME   a running server
  openai_client_test.py --spawn PROGRAM [ARGS...]                          one that prints its port
  openai_client_test.py --serve [OPTIONS...]                               the real one (service.py)

Nothing here depends on what a model says, only on the shape of it. Exit code 77: no openai package.
"""
import argparse
import subprocess
import sys
import threading
import unittest
import urllib.request

try:
    import openai
except ImportError:
    print("the openai package is missing: pip install -r tests/requirements.txt")
    sys.exit(77)

BASE_URL = ""
MODEL = ""
API_KEY = "none"
MESSAGES = [
    {"role": "system", "content": "You are brief."},
    {"role": "user", "content": "Count from one to ten."},
]


def client():
    return openai.OpenAI(base_url=BASE_URL, api_key=API_KEY, max_retries=0, timeout=60)


class OpenAiClient(unittest.TestCase):
    def setUp(self):
        self.client = client()
        self.addCleanup(self.client.close)

    def test_models(self):
        ids = [m.id for m in self.client.models.list()]
        self.assertIn(MODEL, ids)
        self.assertEqual(self.client.models.retrieve(MODEL).id, MODEL)

    def test_completion(self):
        r = self.client.completions.create(model=MODEL, prompt="One two three", max_tokens=8)
        self.assertEqual(len(r.choices), 1)
        self.assertIn(r.choices[0].finish_reason, ("stop", "length"))
        self.assertGreater(r.usage.prompt_tokens, 0)
        self.assertLessEqual(r.usage.completion_tokens, 8)
        self.assertEqual(r.usage.total_tokens, r.usage.prompt_tokens + r.usage.completion_tokens)

    def test_completion_forms_of_prompt(self):
        r = self.client.completions.create(model=MODEL, prompt=["a", "b"], max_tokens=2, n=2)
        self.assertEqual([c.index for c in r.choices], [0, 1, 2, 3])
        r = self.client.completions.create(model=MODEL, prompt=[5, 6, 7], max_tokens=2)
        self.assertEqual(r.usage.prompt_tokens, 3)
        r = self.client.completions.create(model=MODEL, prompt=[[5, 6], [7]], max_tokens=2)
        self.assertEqual(r.usage.prompt_tokens, 3)

    def test_completion_stream_equals_whole(self):
        args = dict(model=MODEL, prompt="Once upon a time", max_tokens=12, temperature=0)
        whole = self.client.completions.create(**args).choices[0]
        chunks = list(self.client.completions.create(stream=True, **args))
        self.assertEqual("".join(c.choices[0].text for c in chunks), whole.text)
        self.assertEqual(chunks[-1].choices[0].finish_reason, whole.finish_reason)

    def test_seed_repeats(self):
        args = dict(model=MODEL, prompt="Colours:", max_tokens=12, temperature=1, seed=11)
        texts = {self.client.completions.create(**args).choices[0].text for _ in range(2)}
        self.assertEqual(len(texts), 1)

    def test_completion_logprobs(self):
        r = self.client.completions.create(model=MODEL, prompt="a", max_tokens=3, logprobs=2)
        lp = r.choices[0].logprobs
        self.assertEqual(len(lp.tokens), r.usage.completion_tokens)
        self.assertEqual(len(lp.token_logprobs), len(lp.tokens))
        self.assertTrue(all(v <= 0 for v in lp.token_logprobs))
        self.assertTrue(all(len(t) <= 2 for t in lp.top_logprobs))

    def test_chat(self):
        r = self.client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=16)
        self.assertEqual(r.choices[0].message.role, "assistant")
        self.assertIsInstance(r.choices[0].message.content, str)
        self.assertIn(r.choices[0].finish_reason, ("stop", "length"))

    def test_chat_stream_with_usage(self):
        stream = self.client.chat.completions.create(
            model=MODEL, messages=MESSAGES, max_completion_tokens=16, stream=True,
            stream_options={"include_usage": True})
        chunks = list(stream)
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        self.assertEqual(chunks[-1].choices, [])
        self.assertGreater(chunks[-1].usage.completion_tokens, 0)
        self.assertTrue(all(c.usage is None for c in chunks[:-1]))
        self.assertIn(chunks[-2].choices[0].finish_reason, ("stop", "length"))

    def test_chat_parts_and_logprobs(self):
        r = self.client.chat.completions.create(
            model=MODEL, max_tokens=3, logprobs=True, top_logprobs=2,
            messages=[{"role": "user", "content": [{"type": "text", "text": "Hi"}]}])
        for entry in r.choices[0].logprobs.content:
            self.assertLessEqual(entry.logprob, 0)
            self.assertEqual(len(entry.top_logprobs), 2)

    def test_errors(self):
        create = self.client.completions.create
        with self.assertRaises(openai.NotFoundError) as caught:
            create(model="no-such-model", prompt="x")
        self.assertEqual(caught.exception.code, "model_not_found")
        for bad in (dict(max_tokens=-1), dict(temperature=9), dict(n=0), dict(prompt="")):
            with self.assertRaises(openai.BadRequestError) as caught:
                create(**{"model": MODEL, "prompt": "x", **bad})
            self.assertEqual(caught.exception.param, next(iter(bad)))
        for stream in (False, True):
            with self.assertRaises(openai.BadRequestError) as caught:
                create(model=MODEL, prompt="x", max_tokens=100_000_000, stream=stream)
            self.assertEqual(caught.exception.code, "context_length_exceeded")
        with self.assertRaises(openai.APIStatusError) as caught:
            create(model=MODEL, prompt="x" * 10_000_000)
        self.assertEqual(caught.exception.status_code, 413)

    def test_leaving_a_stream_early_leaves_the_server_well(self):
        for _ in range(3):
            with self.client.completions.create(
                    model=MODEL, prompt="Tell me", max_tokens=200, stream=True,
                    extra_body={"ignore_eos": True}) as stream:
                next(iter(stream))
        self.client.completions.create(model=MODEL, prompt="x", max_tokens=2)

    def test_many_at_once(self):
        results = []

        def one():
            own = client()
            chunks = list(own.completions.create(
                model=MODEL, prompt="Go", max_tokens=8, stream=True,
                stream_options={"include_usage": True}, extra_body={"ignore_eos": True}))
            results.append(chunks[-1].usage.completion_tokens)
            own.close()

        threads = [threading.Thread(target=one) for _ in range(16)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(results, [8] * 16)

    def test_health_and_metrics(self):
        root = BASE_URL.removesuffix("/v1")
        with urllib.request.urlopen(root + "/health") as r:
            self.assertEqual(r.status, 200)
        request = urllib.request.Request(
            root + "/metrics", headers={"Authorization": "Bearer " + API_KEY})
        with urllib.request.urlopen(request) as r:
            self.assertIn(b"vllm:num_requests_running", r.read())


def main():
    global BASE_URL, MODEL, API_KEY
    parser = argparse.ArgumentParser()
    parser.add_argument("--base-url")
    parser.add_argument("--model", help="default: what the server lists first")
    parser.add_argument("--api-key", default=API_KEY)
    parser.add_argument("--spawn", nargs="+")
    parser.add_argument("--serve", nargs=argparse.REMAINDER, metavar="OPTION")
    args = parser.parse_args()
    API_KEY = args.api_key
    server = None
    if args.serve is not None:
        import service  # needs what the fake server does not have
        service.skip_unless_possible()
        server = service.Service(*args.serve)
        BASE_URL = f"http://127.0.0.1:{server.port}/v1"
    elif args.spawn:
        server = subprocess.Popen(args.spawn, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        BASE_URL = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
    else:
        BASE_URL = args.base_url or parser.error("--base-url or --spawn is needed")
    try:
        with client() as c:
            MODEL = args.model or next(iter(c.models.list())).id
        result = unittest.main(argv=[sys.argv[0]], exit=False, verbosity=1).result
    finally:
        clean = True
        if args.serve is not None:
            with server:
                clean = server.terminate() == 0 and not server.leftovers()
        elif server:
            server.stdin.close()
            clean = server.wait(timeout=20) == 0
    if not clean:
        print("the server did not end cleanly")
    sys.exit(0 if result.wasSuccessful() and clean else 1)


if __name__ == "__main__":
    main()
