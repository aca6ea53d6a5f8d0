"""Answers: streamed and whole, chat and completions, and what their options promise."""
import unittest

import client
import service

PROMPT = "The capital of France is"
CHAT = [{"role": "system", "content": "You are brief."},
        {"role": "user", "content": "Name three colours."}]


class StreamTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(service.Service())

    def tearDown(self):
        self.server.wait_idle()

    def chat(self, **body):
        answer = self.server.post("/v1/chat/completions",
                                  {"messages": CHAT, "temperature": 0, "max_tokens": 24, **body})
        self.assertEqual(answer.status, 200, answer.body)
        return answer.json()

    def chat_stream(self, **body):
        return client.Stream(
            self.server.port, {"messages": CHAT, "temperature": 0, "max_tokens": 24, **body},
            "/v1/chat/completions").result()

    def test_streamed_completion_equals_whole(self):
        options = dict(prompt=PROMPT, max_tokens=24, logprobs=0, ignore_eos=True)
        whole = self.server.complete(**options)
        streamed = self.server.stream(**options).result()
        choice = whole["choices"][0]
        self.assertEqual(streamed.text(), choice["text"])
        self.assertEqual([t for t, _ in streamed.tokens()], choice["logprobs"]["tokens"])
        self.assertEqual([p for _, p in streamed.tokens()], choice["logprobs"]["token_logprobs"])
        self.assertEqual(streamed.finish_reason(), choice["finish_reason"])
        self.assertEqual(client.counts(streamed.usage), client.counts(whole["usage"]))
        self.assertEqual(whole["usage"]["completion_tokens"], 24)
        self.assertEqual(len(streamed.times), 24)
        self.assertIn("Paris", choice["text"])

    def test_streamed_chat_equals_whole(self):
        whole = self.chat()
        streamed = self.chat_stream()
        choice = whole["choices"][0]
        self.assertEqual(choice["message"]["role"], "assistant")
        self.assertEqual(streamed.choices()[0]["delta"]["role"], "assistant")
        self.assertEqual(streamed.text(), choice["message"]["content"])
        self.assertEqual(streamed.finish_reason(), choice["finish_reason"])
        self.assertEqual(client.counts(streamed.usage), client.counts(whole["usage"]))

    def test_usage_is_streamed_only_when_asked_for(self):
        streamed = self.server.stream(prompt=PROMPT, max_tokens=2, stream_options=None).result()
        self.assertTrue(all(chunk["choices"] for chunk in streamed.chunks))
        self.assertFalse(any(chunk.get("usage") for chunk in streamed.chunks))

    def test_greedy_tokens_do_not_depend_on_company(self):
        options = dict(prompt=PROMPT, max_tokens=32)
        alone = self.server.stream(**options).result().tokens()
        crowd = [self.server.stream(**options) for _ in range(4)]
        crowd += [self.server.stream(prompt=f"{i} bottles of beer", max_tokens=32)
                  for i in range(4)]
        for stream in crowd[:4]:
            self.assertEqual(stream.result().tokens(), alone)
        for stream in crowd[4:]:
            stream.result()

    def test_choices_of_one_prompt_differ_by_seed_and_repeat(self):
        options = dict(prompt="My favourite animal is", max_tokens=12, temperature=1, seed=5, n=3)
        first = [c["text"] for c in self.server.complete(**options)["choices"]]
        self.assertEqual(len(set(first)), 3)
        streamed = self.server.stream(**options, ignore_eos=False).result()
        self.assertEqual([streamed.text(i) for i in range(3)], first)

    def test_stop_string_ends_the_text_before_it(self):
        options = dict(prompt="Count: 1, 2, 3, 4,", max_tokens=32)
        free = self.server.complete(**options)["choices"][0]["text"]
        stop = free[10:13]  # in the middle of tokens, as likely as not
        for streamed in (False, True):
            if streamed:
                result = self.server.stream(**options, stop=[stop]).result()
                text, reason = result.text(), result.finish_reason()
                matched = result.choices()[-1]["stop_reason"]
            else:
                choice = self.server.complete(**options, stop=[stop])["choices"][0]
                text, reason = choice["text"], choice["finish_reason"]
                matched = choice["stop_reason"]
            self.assertEqual(text, free[:free.index(stop)])
            self.assertEqual(reason, "stop")
            self.assertEqual(matched, stop)

    def test_logprobs(self):
        choice = self.server.complete(prompt=PROMPT, max_tokens=4, logprobs=3)["choices"][0]
        logprobs = choice["logprobs"]
        self.assertEqual("".join(logprobs["tokens"]), choice["text"])
        for token, value, top in zip(logprobs["tokens"], logprobs["token_logprobs"],
                                     logprobs["top_logprobs"]):
            self.assertLessEqual(value, 0)
            self.assertEqual(len(top), 3)
            self.assertEqual(max(top, key=top.get), token)  # greedy takes the best
            self.assertEqual(top[token], value)
        content = self.chat(logprobs=True, top_logprobs=2)["choices"][0]["logprobs"]["content"]
        for entry in content:
            self.assertEqual(entry["top_logprobs"][0]["token"], entry["token"])
            self.assertEqual(bytes(entry["bytes"]).decode(errors="replace"), entry["token"])

    def test_unicode_goes_through_whole(self):
        text = "naïve café 你好 👩‍🚀 \u0000 \\ \" end"
        echoed = self.server.complete(prompt=text, max_tokens=1, echo=True)["choices"][0]["text"]
        self.assertTrue(echoed.startswith(text), echoed)
        tokens = self.server.post("/tokenize", {"prompt": text}).json()["tokens"]
        self.assertEqual(self.server.post("/detokenize", {"tokens": tokens}).json()["prompt"], text)


if __name__ == "__main__":
    service.main()
