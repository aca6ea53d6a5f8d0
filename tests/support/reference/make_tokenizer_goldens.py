#!/usr/bin/env python3
"""Writes tests/data/tokenizer/: small tokenizer.json files and what Hugging Face `tokenizers` makes
of a set of texts with them. Needs `pip install tokenizers gguf`.

  make_tokenizer_goldens.py OUT_DIR [SMOLLM2.gguf]

NAME.json is a tokenizer, NAME.golden its cases, one a line:
{"text": ..., "ids": [...], "special": bool, "decoded": ...}
"special" false means that special tokens in the text were not to be recognised (a text without any
encodes the same either way). The default model's vocabulary is too large to commit: smollm2.golden
is made from the GGUF's tokens and merges and is checked when the model is at hand.
"""
import json, random, sys
from pathlib import Path
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers import models, processors, trainers

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

TRAINING = """The actor model treats actors as the basic units of computation. In response to a message
an actor can make local decisions, create more actors, send more messages, and decide how to answer
the next message. Actors may change their own private state, but can only affect each other through
messages. It's what they'll do; we're sure you've seen it, I'd say I'm not, don't DON'T IT'S.
int main(int argc, char** argv) { for (int i = 0; i < 100; ++i) { printf("%d\\n", i); } return 0; }
def tokenize(text):\n    return [piece for piece in text.split() if piece]\n\n\tif x == 3.14159:\n\t\tpass
Der schnelle braune Fuchs springt über den faulen Hund. Größe, Straße, Übermut und Äpfel.
Le cœur a ses raisons que la raison ne connaît point. Ça va être l'été à la plage.
Быстрая коричневая лиса перепрыгивает через ленивую собаку. Привет, мир!
天地玄黃，宇宙洪荒。日月盈昃，辰宿列張。今天天气很好，我们去公园散步吧。吾輩は猫である。名前はまだ無い。
한국어 문장도 조금 있습니다. 안녕하세요 세계. नमस्ते दुनिया। यह एक परीक्षा है। مرحبا بالعالم كيف حالك
1234567890 3.14 1,000,000 2024-01-31 0xdeadbeef 192.168.0.1 ½ ² Ⅷ ٣٤٥ ४५
""".split("\n")

CASES = [
    "", " ", "a", "Hello world", " Hello  world ", "Hello, world! It's 2024, isn't it?",
    "I'M SURE YOU'RE RIGHT, THEY'LL DON'T we'Ve 'ſ ''s 's", "1234567890 12 3 4567 x86_64 3.14e-10",
    "½ ² Ⅷ ٣٤٥ ४५ 12½3", "   three\n\n\nnewlines  \n \n\t tabs\t\t x", "line\r\nline\r\n\r\nend \r",
    "trailing spaces    ", "    indented:\n        return x == y;\n", "\u00a0nbsp\u3000wide\u2009thin\u200bzero",
    "für Größe über Straße", "Привет, мир! Как дела?", "今天天气很好，我们去公园。", "吾輩は猫である。名前はまだ無い。",
    "안녕하세요 세계", "नमस्ते दुनिया। यह", "مرحبا بالعالم", "👍 👩‍👩‍👧‍👦 🇩🇪 🏳️‍🌈 😀😀😀",
    "e\u0301 vs \u00e9, o\u0308\u0323, \u1100\u1161\u11a8, \u212b \u2126 \ufb01", "Z\u0351\u036b\u0343a\u0300\u0301\u0302lgo",
    "ctrl \x00\x01\x02\x07\x1b[0m\x7f\x85 end", "\ufeffbom \ufffd \U0010ffff \ue000", "\u180e mongolian \u180e\u1820",
    "<tag attr=\"x\">&amp;</tag>", "{\"json\": [1, 2.5e3, null, true]}", "https://example.org/a?b=c&d=%20#e",
    "#include <vector>\nstd::vector<int> v{1,2,3};\n// done\n", "for i in range(10):\n\tprint(f\"{i:>3}\")\n",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "-----=====*****_____", "......!!!???\n\n...",
    "▁under▁score ▁ ▁▁x", "<0x41> <0x0A>", "a\u2028b\u2029c\x0bd\x0ce", "\n", "\n\n", " \n", "\n ", "\t\t",
    "The actor model treats actors as the basic units of computation. " * 3,
]
SPECIAL = [
    "<|start|>user\nHello<|end|>\n<|start|>assistant\n", "a <|end|> b", "<|end|><|end|>", "<|end|", "<|en<|end|>d|>",
    "x <pad>  y", " <mask> z", "<think>well</think> done", "<unk>", "  <|start|>  ",
]


def random_cases(count):
    rng = random.Random(20240131)
    pools = ["abcXYZ", "  \n\t", "0123", "'.,!-_", "äéß", "дЖ", "天地，", "한글", "👍\u200d\u0301", "\x00\x1f\u00a0\u2003"]
    return ["".join(rng.choice(rng.choice(pools)) for _ in range(rng.randint(1, 60))) for _ in range(count)]


def save(out, name, tok, extra_text=()):
    tok.save(str(out / f"{name}.json"), pretty=False)
    write_cases(out, name, tok, extra_text)


def write_cases(out, name, tok, special):
    with open(out / f"{name}.golden", "w", encoding="utf-8") as f:
        for text, with_special in [(t, False) for t in CASES + random_cases(120)] + [(t, True) for t in special]:
            if tok.normalizer is None and any(0xD800 <= ord(c) < 0xE000 for c in text):
                continue
            ids = tok.encode(text).ids
            row = {"text": text, "ids": ids, "special": with_special,
                   "decoded": tok.decode(ids, skip_special_tokens=True)}
            f.write(json.dumps(row, ensure_ascii=True, separators=(",", ":")) + "\n")


def train(tok, vocab_size, specials, alphabet):
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=specials, initial_alphabet=alphabet,
                                  show_progress=False)
    tok.train_from_iterator(TRAINING * 2, trainer)


def byte_level(regex, normalizer, **bpe):
    tok = Tokenizer(models.BPE(**bpe))
    tok.normalizer = normalizer
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(regex), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    train(tok, 900, [], pre_tokenizers.ByteLevel.alphabet())
    tok.add_special_tokens(["<|start|>", "<|end|>", AddedToken("<pad>", rstrip=True), AddedToken("<mask>", lstrip=True)])
    tok.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    return tok


def main():
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)

    tok = byte_level(LLAMA3, None, ignore_merges=True)
    start = tok.token_to_id("<|start|>")
    tok.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|start|> $A", special_tokens=[("<|start|>", start)])])
    save(out, "llama3", tok, SPECIAL)

    save(out, "qwen2", byte_level(QWEN2, normalizers.NFC()), SPECIAL)

    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                 pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tok.decoder = decoders.ByteLevel()
    train(tok, 900, ["<|start|>", "<|end|>"], pre_tokenizers.ByteLevel.alphabet())
    save(out, "smollm", tok, SPECIAL)

    for name, metaspace in (("llama2", False), ("metaspace", True)):
        tok = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        mark = "\u2581"
        if metaspace:
            tok.pre_tokenizer = pre_tokenizers.Metaspace(mark, prepend_scheme="first", split=True)
        else:
            tok.normalizer = normalizers.Sequence([normalizers.Prepend(mark), normalizers.Replace(" ", mark)])
        specials = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
        # Training needs words, which the finished tokenizer of the llama2 kind does not have.
        trained = Tokenizer(models.BPE(unk_token="<unk>"))
        trained.pre_tokenizer = pre_tokenizers.Metaspace(mark, split=True)
        train(trained, 1000, specials, [c for c in map(chr, range(0x20, 0x7F)) if c != " "])
        model = json.loads(trained.to_str())["model"]
        merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]
        tok.model = models.BPE(vocab=model["vocab"], merges=merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
        tok.add_special_tokens([AddedToken(t, normalized=False) for t in ("<unk>", "<s>", "</s>")])
        tok.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
        tok.decoder = (decoders.Metaspace(mark, prepend_scheme="first", split=True) if metaspace else
                       decoders.Sequence([decoders.Replace(mark, " "), decoders.ByteFallback(), decoders.Fuse(),
                                          decoders.Strip(" ", 1, 0)]))
        if metaspace:
            tok.decoder = decoders.Sequence([decoders.Replace(mark, " "), decoders.ByteFallback(), decoders.Fuse(),
                                             decoders.Strip(" ", 1, 0)])
        save(out, name, tok, ["a<s>b</s> c", "<s>Hello", "</s></s>", "x<unk>y"])

    if len(sys.argv) > 2:
        from gguf import GGUFReader
        fields = GGUFReader(sys.argv[2]).fields
        texts = fields["tokenizer.ggml.tokens"].contents()
        types = fields["tokenizer.ggml.token_type"].contents()
        merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
        tok = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(texts)}, merges=merges))
        tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                     pre_tokenizers.ByteLevel(add_prefix_space=False)])
        tok.decoder = decoders.ByteLevel()
        tok.add_special_tokens([t for t, kind in zip(texts, types) if kind == 3])
        write_cases(out, "smollm2", tok, ["<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "<|im_end|", "a <|endoftext|>b"])


if __name__ == "__main__":
    main()
