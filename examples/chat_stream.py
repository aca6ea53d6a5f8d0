#!/usr/bin/env python3
"""A conversation of two turns, streamed, with the `openai` package.

TROUPE_URL is the server's address, TROUPE_API_KEY its key if it wants one.
"""
import os

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("TROUPE_URL", "http://127.0.0.1:8000") + "/v1",
    api_key=os.environ.get("TROUPE_API_KEY", "none"),
)
model = client.models.list().data[0].id
messages = [{"role": "system", "content": "You answer in one sentence."}]

for question in ("What does a conductor do?", "And what does a director do?"):
    print(f"> {question}")
    messages.append({"role": "user", "content": question})
    answer = ""
    stream = client.chat.completions.create(
        model=model,
        messages=messages,
        max_tokens=48,
        temperature=0.7,
        seed=1,  # the same answer every time
        stream=True,
        stream_options={"include_usage": True},
    )
    for part in stream:
        if part.choices:
            text = part.choices[0].delta.content or ""
            answer += text
            print(text, end="", flush=True)
        elif part.usage:
            usage = part.usage
            print(f"\n  [{usage.prompt_tokens} tokens in, {usage.completion_tokens} out]")
    assert answer, "the model said nothing"
    messages.append({"role": "assistant", "content": answer})
