"""A plain HTTP client for the end-to-end tests: whole answers, and streams read in threads."""
import http.client
import json
import socket
import threading
import time

TIMEOUT = 120  # seconds for anything to happen, on a machine that does a lot besides


def wait_for(condition, what, timeout=TIMEOUT):
    """Returns the first true value of `condition`; fails after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout} s for: {what}")
        time.sleep(0.02)


def counts(usage):
    """Usage without what a warm prefix cache changes."""
    return {k: v for k, v in usage.items() if k != "prompt_tokens_details"}


class Answer:
    """One whole HTTP answer."""

    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        return self.json()["error"]


def exchange(port, method, path, body=None, headers=None):
    """`body`: bytes as they are, or anything JSON can hold."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        connection.request(method, path, *_encoded(body, headers))
        return Answer(connection.getresponse())
    finally:
        connection.close()


def raw(port, data):
    """Sends bytes, returns all that comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as connection:
        connection.sendall(data)
        received = b""
        while chunk := connection.recv(1 << 16):
            received += chunk
        return received


def _encoded(body, headers):
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    return body, {"Content-Type": "application/json", **(headers or {})}


class Stream(threading.Thread):
    """A completion, streamed by a thread of its own. Read the fields after result()."""

    def __init__(self, port, body, path="/v1/completions"):
        super().__init__(daemon=True)
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        self.path = path
        self.body = {"stream": True, "stream_options": {"include_usage": True}, **body}
        self.status = None
        self.refusal = None  # the Answer, when the status is not 200
        self.chunks = []  # every event but [DONE], as JSON
        self.times = []  # of the chunks that carry a token
        self.done = False  # [DONE] has come
        self.failure = None
        self.first = threading.Event()  # a token, or the end
        self.start()

    def run(self):
        try:
            self.connection.request("POST", self.path, *_encoded(self.body, None))
            response = self.connection.getresponse()
            self.status = response.status
            if self.status != 200:
                self.refusal = Answer(response)
                return
            for line in response:
                if line == b"data: [DONE]\n":
                    self.done = True
                elif line.startswith(b"data: "):
                    self._take(json.loads(line[6:]))
        except Exception as error:  # pylint: disable=broad-except; result() raises it
            self.failure = error
        finally:
            self.first.set()
            self.connection.close()

    def _take(self, chunk):
        self.chunks.append(chunk)
        if chunk.get("choices") and chunk["choices"][0]["finish_reason"] is None:
            self.times.append(time.monotonic())
            self.first.set()

    def hang_up(self):
        self.connection.sock.shutdown(socket.SHUT_RDWR)

    def wait_tokens(self, n):
        wait_for(lambda: len(self.times) >= n or not self.is_alive(), f"token {n} of a stream")
        return self

    def result(self):
        """Waits for a good end."""
        self.join(TIMEOUT)
        if self.is_alive() or self.failure:
            raise AssertionError(f"a stream did not end: {self.failure or self.chunks[-1:]}")
        if self.refusal:
            raise AssertionError(f"refused: {self.status} {self.refusal.body}")
        if not self.done:
            raise AssertionError(f"a stream broke off: {self.chunks[-1:]}")
        return self

    def ended_by_the_server(self):
        """Waits for an end that the server chose: a proper last chunk, whose event is an error
        and no [DONE]. Returns the error."""
        self.join(TIMEOUT)
        if self.is_alive() or self.failure or self.done:
            raise AssertionError(f"not ended by the server: {self.failure or self.chunks[-1:]}")
        return self.chunks[-1]["error"]

    def choices(self, index=0):
        return [c for chunk in self.chunks for c in chunk["choices"] if c["index"] == index]

    def text(self, index=0):
        return "".join(c["text"] if "text" in c else c["delta"].get("content", "")
                       for c in self.choices(index))

    def tokens(self, index=0):
        """(token, logprob) pairs; needs logprobs in the request."""
        return [pair for c in self.choices(index) if c["logprobs"]
                for pair in zip(c["logprobs"]["tokens"], c["logprobs"]["token_logprobs"])]

    def finish_reason(self, index=0):
        return self.choices(index)[-1]["finish_reason"]

    @property
    def usage(self):
        return self.chunks[-1]["usage"]

    def longest_pause(self):
        return max(b - a for a, b in zip(self.times, self.times[1:]))
