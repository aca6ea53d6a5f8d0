#!/usr/bin/env python3
"""Many prompts at once: batch_completions.py FILE [CONCURRENCY]

FILE has one prompt a line; one JSON object a line comes out, in the same order. The server batches
what it gets at the same time. TROUPE_URL is its address, TROUPE_API_KEY its key if it wants one.
"""
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("TROUPE_URL", "http://127.0.0.1:8000") + "/v1",
    api_key=os.environ.get("TROUPE_API_KEY", "none"),
    max_retries=8,  # a full queue answers 429 and when to come back
)
model = client.models.list().data[0].id


def complete(prompt):
    result = client.completions.create(
        model=model, prompt=prompt, max_tokens=24, temperature=0, stop=["\n"]
    )
    return {
        "prompt": prompt,
        "text": result.choices[0].text,
        "finish_reason": result.choices[0].finish_reason,
        "tokens": result.usage.completion_tokens,
    }


with open(sys.argv[1], encoding="utf-8") as file:
    prompts = [line.rstrip("\n") for line in file if line.strip()]
with ThreadPoolExecutor(int(sys.argv[2]) if len(sys.argv) > 2 else 16) as pool:
    for answer in pool.map(complete, prompts):
        print(json.dumps(answer, ensure_ascii=False), flush=True)
