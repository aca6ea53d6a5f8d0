"""Bad input over HTTP: a clear answer, and the server serves the next request."""
import re
import unittest

import client
import service

CONTEXT = 8192  # of the default model


def request_bytes(head, body=b""):
    return head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body


class BadRequestTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(service.Service())

    def tearDown(self):
        """Whatever a test sent: the server is the same process, idle, and answers."""
        self.assertIsNone(self.server.process.poll(), self.server.log())
        self.server.wait_idle()
        good = self.server.complete(prompt="x", max_tokens=1)
        self.assertEqual(good["usage"]["completion_tokens"], 1)

    def refuse(self, body, status=400, path="/v1/completions", **expected):
        """`body` must be refused with an OpenAI-shaped error that has the `expected` members."""
        answer = self.server.post(path, body)
        self.assertEqual(answer.status, status, answer.body)
        self.assertEqual(set(answer.error), {"message", "type", "param", "code"})
        self.assertTrue(answer.error["message"])
        for name, value in expected.items():
            self.assertEqual(answer.error[name], value, answer.body)
        return answer.error["message"]

    def test_malformed_json(self):
        for body in (b"", b"{", b"nonsense", b"[]", b"null", b'"text"', b'{"prompt": "x",}',
                     b'{"prompt": "x"} {}', b"{'prompt': 'x'}", b'\xef\xbb\xbf{"prompt": "x"}',
                     b'{"prompt": "x", "max_tokens": 01}', b'{"prompt": "x", "n": NaN}',
                     b'{"prompt": "x", "temperature": 1e400}',
                     b'{"prompt": "\x00"}', b'{"prompt": "\\ud800"}'):
            with self.subTest(body):
                self.refuse(body, code="invalid_value", type="invalid_request_error")

    def test_wrong_types(self):
        for path, good in (("/v1/completions", {"prompt": "x"}),
                           ("/v1/chat/completions",
                            {"messages": [{"role": "user", "content": "x"}]})):
            for name, values in (
                    ("max_tokens", [1.5, -1, "5", True, 1e30, 0, 2**63, -(2**70), [], {}]),
                    ("temperature", ["1", -0.1, 2.1, 1e300, [], True]),
                    ("top_p", [0, -1, 1.01, "x"]), ("n", [0, -1, 1.5, "2", 1000]),
                    ("seed", [-1, 1.5, "1", 2**64]), ("stream", [1, "true", []]),
                    ("stop", [5, [5], [""], {}]), ("logit_bias", [[], {"x": 1}, {"5": "a"}])):
                for value in values:
                    with self.subTest(f"{path} {name}={value}"):
                        self.refuse({**good, name: value}, path=path, param=name)

    def test_wrong_prompts(self):
        for prompt in ("", [], [""], 5, None, {}, [[]], [-1], [49152], [1.5], ["a", 5], [["a"]],
                       True):
            with self.subTest(prompt):
                self.refuse({"prompt": prompt}, param="prompt")
        self.refuse({}, param="prompt")
        chat = "/v1/chat/completions"
        for messages in ([], "x", None, [5], [{}], [{"role": "user"}], [{"role": 5, "content": "x"}],
                         [{"role": "nobody", "content": "x"}], [{"role": "user", "content": 5}],
                         [{"role": "user", "content": [{"type": "image_url"}]}]):
            with self.subTest(messages):
                self.refuse({"messages": messages}, path=chat)

    def test_unknown_model(self):
        for path, rest in (("/v1/completions", {"prompt": "x"}),
                           ("/v1/chat/completions",
                            {"messages": [{"role": "user", "content": "x"}]})):
            self.refuse({"model": "gpt-5", **rest}, 404, path, code="model_not_found",
                        param="model")

    def test_too_long_for_the_context(self):
        for body in ({"prompt": [5] * CONTEXT}, {"prompt": [5] * 8000, "max_tokens": 193},
                     {"prompt": "x", "max_tokens": 2**31 - 1}, {"prompt": "word " * 20_000},
                     {"prompt": "word " * 20_000, "stream": True}):
            message = self.refuse(body, code="context_length_exceeded")
            self.assertRegex(message, r"\d+ tokens")

    def test_invalid_utf8(self):
        for text in (b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"ok \xe2\x82", b"\xf5\x80\x80\x80"):
            with self.subTest(text):
                self.refuse(b'{"prompt": "' + text + b'"}')

    def test_body_of_10_mb(self):
        self.refuse({"prompt": "x" * 10_000_000}, 413, code="payload_too_large")
        # Without a length, in chunks.
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        answer = client.raw(self.server.port, request_bytes(
            "POST /v1/completions HTTP/1.1\nHost: x\nContent-Type: application/json\n"
            "Transfer-Encoding: chunked", chunk * 160 + b"0\r\n\r\n"))
        self.assertTrue(answer.startswith(b"HTTP/1.1 413 "), answer[:200])

    def test_deeply_nested_json(self):
        for body in (b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000,
                     b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
                     b'{"prompt": "x", "user": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"):
            self.assertIn("nested", self.refuse(body))

    def test_framing_that_two_servers_could_read_differently(self):
        post = "POST /v1/completions HTTP/1.1\nHost: x\nContent-Type: application/json\n"
        body = b'{"prompt": "x", "max_tokens": 1}'
        smuggled = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
        length = f"Content-Length: {len(body)}"
        for head in (post + "Transfer-Encoding: chunked, identity",
                     post + "Transfer-Encoding: xchunked",
                     post + "Transfer-Encoding: chunked\nTransfer-Encoding: chunked",
                     post + "Transfer-Encoding: chunked\n" + length,
                     post + "Transfer-Encoding:\n chunked",
                     post + length + "\nContent-Length: 3",
                     post + f"Content-Length: {len(body)},{len(body)}",
                     post + f"Content-Length: +{len(body)}",
                     post + "Content-Length: 99999999999999999999",
                     post.replace("HTTP/1.1", "HTTP/1.0") + "Transfer-Encoding: chunked",
                     post.replace("Host: x\n", "") + length,
                     post.replace("Host: x", "Host: x\nHost: y") + length,
                     post.replace("Host: x", "Host : x") + length,
                     post + "X: a\x00b\n" + length):
            with self.subTest(head):
                answer = client.raw(self.server.port, request_bytes(head, body + smuggled))
                self.assertRegex(answer, rb"^HTTP/1\.[01] 400 ")
                answers = re.findall(rb"HTTP/1\.[01] \d{3} ", answer)
                self.assertEqual(len(answers), 1, "what follows must not be read as a request")

    def test_heads_that_are_no_requests(self):
        for data in (b"\r\n" * 10 + b"nonsense\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01" * 8 +
                     b"\r\n\r\n", b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", b"GET /\n\n",
                     b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
                     b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 10_000 + b"\r\n"):
            with self.subTest(data[:40]):
                answer = client.raw(self.server.port, data)
                self.assertRegex(answer, rb"^HTTP/1\.1 (4\d\d|505) ")

    def test_wrong_routes_methods_and_types(self):
        self.assertEqual(self.server.get("/v1/nothing").status, 404)
        self.assertEqual(self.server.get("/v1/completions").status, 405)
        self.assertEqual(client.exchange(self.server.port, "DELETE", "/v1/models").status, 405)
        for headers in ({"Content-Type": "text/plain"}, {"Content-Encoding": "gzip"}):
            self.assertEqual(self.server.post("/v1/completions", {"prompt": "x"}, headers).status,
                             415)


if __name__ == "__main__":
    service.main()
