"""Byte-level BPE in the tokenizer.json layout, equal to the `tokenizers` library; the state tokens.

    tokenizer = Tokenizer.from_pretrained("assets/tiny")
    tokenizer.encode("user") -> list of ids        tokenizer.decode(ids) -> str
"""
import heapq
import re
import unicodedata
from collections import Counter
from functools import lru_cache
from pathlib import Path

from parts.files import check, model_folder, only, read_json, reading, write_json

SILENCE, STANDBY, RESPONSE = STATES = ("</Silence>", "</Standby>", "</Response>")
FRAME = "<frame>"
MOST_IDS = 1 << 24      # the largest public vocabularies have 2^18; a matrix has a row for each id


# ---- Splitting text into words, by Unicode 16 as the library does it

QWEN_PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
                r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# "user\n", "s-", "s>\n" and every number below 1000 can be one token of the toy vocabulary
TOY_PATTERN = (r"s[->]\n?|\p{N}{1,3}| ?\p{L}+\n?| ?[^\s\p{L}\p{N}]+[\r\n]*|"
               r"\s*[\r\n]+|\s+(?!\S)|\s+")
# The `tokenizers` library splits by Unicode 16 and normalises by Unicode 9; Python 3.11 knows 14.
# Letters and numbers newer than 14, and the marks newer than 9, which its NFC does not know:
NEWER = {"L": "1c89-1c8a a7cb-a7cd a7da-a7dc 105c0-105f3 10d4a-10d65 10d6f-10d85 10ec2-10ec4 "
              "1123f-11240 11380-11389 1138b 1138e 11390-113b5 113b7 113d1 113d3 11bc0-11be0 "
              "11f02 11f04-11f10 11f12-11f33 1342f 13441-13446 13460-143fa 16100-1611d "
              "16d40-16d6c 18cff 1b132 1b155 1df25-1df2a 1e030-1e06d 1e4d0-1e4eb 1e5d0-1e5ed "
              "1e5f0 2b739 2ebf0-2ee5d 31350-323af",
         "N": "10d40-10d49 116d0-116e3 11bf0-11bf9 11f50-11f59 16130-16139 16d70-16d79 "
              "1ccf0-1ccf9 1d2c0-1d2d3 1e4f0-1e4f9 1e5f1-1e5fa",
         "M": "7fd 898-89f 8ca-8d3 9fe c3c d3b-d3c eba 1715 1abf-1ace 1df6-1dfa a82c 10d24-10d27 "
              "10eab-10eac 10f46-10f50 10f82-10f85 11070 1133b 1145e 11839-1183a 11930 11935 "
              "1193d-1193e 11943 119e0 11a34 11a47 11a99 11d42 11d44-11d45 11d97 16ff0-16ff1 "
              "1e130-1e136 1e2ae 1e2ec-1e2ef"}
WHITE_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # \s has others


def char_ranges(spans):
    """ "a7cb-a7cd 18cff" as the inside of a `re` class."""
    return re.sub(r"\w+", lambda code: chr(int(code[0], 16)), spans).replace(" ", "")


@lru_cache
def unicode_class(major):
    r"""All letters "L" or all numbers "N", \p{L} or \p{N}, as the inside of a `re` class."""
    # the first four planes: beyond them are marks, tags and private use
    majors = "".join(unicodedata.category(chr(c))[0] for c in range(0x40000))
    known = [f"{run.start():x}-{run.end() - 1:x}" for run in re.finditer(f"{major}+", majors)]
    return char_ranges(" ".join([*known, NEWER[major]]))


@lru_cache
def compile_split(pattern):
    r"""A Split pattern with \p{L}, \p{N}, \s, \S as a Python regex whose split() keeps all."""
    classes = {r"\s": WHITE_SPACE, r"\p{L}": unicode_class("L"), r"\p{N}": unicode_class("N")}
    out, inside = [], False
    for piece in re.findall(r"\\[pP]\{\^?\w+\}|\\.|.", pattern, re.S):
        if piece in classes:
            piece = classes[piece] if inside else f"[{classes[piece]}]"
        elif piece == r"\S" and not inside:
            piece = f"[^{WHITE_SPACE}]"
        check(piece[:2] not in (r"\p", r"\P", r"\S"), f"pattern {pattern}: {piece} unsupported")
        # (a+)+ takes 2^n steps for n letters; what public tokenizers repeat are single characters
        check(inside or out[-1:] != [")"] or piece not in "+*{",
              f"pattern {pattern}: a repeated group is unsupported")
        inside = piece == "[" or (inside and piece != "]")
        out.append(piece)
    try:
        split = re.compile(f"({''.join(out)})")
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"pattern {pattern}: {error}") from error
    check(split.groups == 1, f"pattern {pattern}: capturing groups unsupported")
    return split


@lru_cache
def byte_alphabet():
    """GPT-2's printable stand-in for each of the 256 bytes, in the order of its vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


# ---- Byte-pair encoding
#
# A word starts as its bytes, each of them a token. The vocabulary was learnt by merging, again and
# again, the pair of neighbours that was most frequent in some text into a new token; the order of
# learning is the merges' rank. A word is encoded by doing the same to it: of all neighbours that
# can merge, those learnt first merge first. With "th" learnt before "he", and "the" after both:
#
#     t h e n     th: rank 0, he: rank 1     -> th e n
#     th e n      the: rank 2                -> the n       (no merge is known for "the n": done)
#
# Ranks and not lengths decide: with "he" learnt first it is t he n, and "the" is never made, as its
# merge is th + e.

def merge_word_simply(ids, ranks):
    """Byte-pair merges of one word: ids, and {(left, right): (rank, id of the merged token)}.

    The textbook form: look at all neighbours, merge the pair of the lowest rank (the leftmost of
    equals), and look again. It takes n * n steps, which a word of 100 KB does not forgive."""
    ids = list(ids)
    while True:
        known = [(ranks[pair], i) for i, pair in enumerate(zip(ids, ids[1:])) if pair in ranks]
        if not known:
            return ids
        (_, merged), i = min(known)
        ids[i:i + 2] = [merged]


def merge_word(ids, ranks):
    """Byte-pair merges of one word: ids, and {(left, right): (rank, id of the merged token)}. The
    same as the textbook form in n log n steps, by two structures that spare the looking again.

    A heap holds the pairs that can merge, the lowest rank and then the leftmost on top. A linked
    list, before[i] and after[i], holds the neighbours: a merge leaves the new token at the left
    one's place i and unlinks the right one's. Only the two pairs that the new token is part of are
    new; what the heap holds of pairs that are gone is passed over when it comes up."""
    after, before = list(range(1, len(ids) + 1)), list(range(-1, len(ids)))
    ids = [*ids, None]          # None past the end, which is also ids[-1], and where merged away
    heap = [(*ranks[pair], i, pair) for i, pair in enumerate(zip(ids, ids[1:])) if pair in ranks]
    heapq.heapify(heap)                                 # of (rank, merged id, place, pair)
    while heap:
        _, new, i, pair = heapq.heappop(heap)
        j = after[i]
        if (ids[i], ids[j]) != pair:
            continue                                    # one of the two has been merged since
        ids[i], ids[j], after[i] = new, None, after[j]
        before[after[j]] = i
        for a, b in ((before[i], i), (i, after[i])):    # the new token and its two neighbours
            if (ids[a], ids[b]) in ranks:
                heapq.heappush(heap, (*ranks[ids[a], ids[b]], a, (ids[a], ids[b])))
    return [i for i in ids if i is not None]


def check_ids(vocab, added):
    """ValueError where ids are no ids, or one is of two tokens."""
    names = {}
    for token, i in [*vocab.items(), *added.items()]:
        if type(i) is not int or not 0 <= i < MOST_IDS:
            raise ValueError(f"token {token!r} has the id {i!r}, wanted a number below {MOST_IDS}")
        if not token or names.setdefault(i, token) != token:
            raise ValueError(f"id {i} is of two tokens, {names.get(i)!r} and {token!r}, or of none")


class Tokenizer:
    """Byte-level BPE: vocab {token: id} in GPT-2's byte alphabet, merges [(a, b)], split patterns
    applied one after another, added {token: id} that are never split. Equal to the `tokenizers`
    library with add_special_tokens=False."""

    def __init__(self, vocab, merges, patterns, added=None, nfc=False, ignore_merges=False):
        self.vocab, self.merges, self.patterns = vocab, [tuple(m) for m in merges], tuple(patterns)
        self.nfc, self.ignore_merges, self.added = nfc, ignore_merges, dict(added or {})
        check_ids(self.vocab, self.added)
        self.ranks = {(vocab[a], vocab[b]): (rank, vocab[a + b])
                      for rank, (a, b) in enumerate(self.merges)}
        self.splits = [compile_split(pattern) for pattern in self.patterns]
        self.unknown_marks = re.compile(f"([{char_ranges(NEWER['M'])}])")
        # the library drops a byte that has no token (SmolLM2 lacks some control characters)
        self.byte_ids = {b: vocab[char] for b, char in byte_alphabet().items() if char in vocab}
        to_byte = {char: b for b, char in byte_alphabet().items()}
        self.bytes = {i: bytes(to_byte[c] for c in token) for token, i in vocab.items()
                      if all(c in to_byte for c in token)}
        # word -> ids: text repeats its words. With ignore_merges every token is such a word
        self.words = {token: [i] for i, token in self.bytes.items()} if ignore_merges else {}
        self.add_tokens([])

    def add_tokens(self, tokens):
        """Give each absent token the next id after the last."""
        for token in tokens:
            if token not in self.added:
                self.added[token] = self.vocab.get(token, len(self))
        self.bytes.update({i: token.encode() for token, i in self.added.items()})
        longest_first = sorted(self.added, key=len, reverse=True)
        self.added_split = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")

    def __len__(self):
        return 1 + max([*self.vocab.values(), *self.added.values()])

    def id(self, token):
        if token not in self.added and token not in self.vocab:
            raise ValueError(f"the tokenizer has no token {token!r}")
        return self.added[token] if token in self.added else self.vocab[token]

    state_ids = property(lambda self: tuple(self.id(token) for token in STATES))
    frame_id = property(lambda self: self.id(FRAME))
    pad_id = property(lambda self: self.id("<|endoftext|>"))

    def _encode_plain(self, text):
        if self.nfc and not text.isascii():
            text = "".join(unicodedata.normalize("NFC", part)
                           for part in self.unknown_marks.split(text))
        words, ids = [text], []
        for split in self.splits:                       # split() gives the gaps and the matches
            words = [part for word in words for part in split.split(word) if part]
        for word in words:
            word = word.encode()
            known = self.words.get(word)
            if known is None:
                known = merge_word([self.byte_ids[b] for b in word if b in self.byte_ids],
                                   self.ranks)
                if len(self.words) < 300_000 and len(word) < 100:
                    self.words[word] = known
            ids += known
        return ids

    def encode(self, text, special=True):
        """Token ids of text. special=False reads added tokens inside the text as plain text, so
        that a user cannot inject them."""
        ids = []
        for i, part in enumerate(self.added_split.split(text) if special else [text]):
            ids += [self.added[part]] if i % 2 else self._encode_plain(part)
        return ids

    def decode(self, ids):
        """The text of ids, added tokens too; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(self.bytes[int(i)] for i in ids).decode("utf-8", errors="replace")

    @classmethod
    def train(cls, texts, vocab_size, pattern=TOY_PATTERN):
        """A small vocabulary learnt from texts: 256 bytes, a token for each number below 1000,
        then the most frequent pair again and again (ties: the lower ids) up to vocab_size, then
        the three ChatML tokens."""
        names, merges, ranks = list(byte_alphabet().values()), [], {}
        byte_ids = {b: i for i, b in enumerate(byte_alphabet())}

        def merge(a, b):
            ranks[a, b] = (len(merges), len(names))
            merges.append((names[a], names[b]))
            names.append(names[a] + names[b])

        for number in range(10, 1000):
            merge(*merge_word([byte_ids[b] for b in str(number).encode()], ranks))
        counts = Counter(w for text in texts for w in compile_split(pattern).split(text) if w)
        words = [[merge_word([byte_ids[b] for b in word.encode()], ranks), n]
                 for word, n in sorted(counts.items())]
        pairs = Counter()

        def count(ids, n):
            for pair in zip(ids, ids[1:]):
                pairs[pair] += n

        for ids, n in words:
            count(ids, n)
        while len(names) < vocab_size and pairs.total():    # 0: all words are whole
            best = min(pairs, key=lambda pair: (-pairs[pair], pair))
            merge(*best)
            for word in words:
                ids, n = word
                if best in zip(ids, ids[1:]):               # the pairs of other words stay
                    count(ids, -n)
                    word[0] = merge_word(ids, {best: ranks[best]})
                    count(word[0], n)
        tokenizer = cls({name: i for i, name in enumerate(names)}, merges, [pattern])
        tokenizer.add_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
        return tokenizer

    @classmethod
    def from_pretrained(cls, folder):
        """Read folder/tokenizer.json, or vocab.json + merges.txt + tokenizer_config.json of Qwen.
        ValueError names the file and the setting that is not supported."""
        path = model_folder(folder, "tokenizer.json", "vocab.json") / "tokenizer.json"
        if not path.exists() and path.with_name("vocab.json").exists():
            return cls._from_vocab(Path(folder))
        with reading(path):
            data = read_json(path)
            check({"model", "added_tokens"} <= set(data), f"{path}: not a tokenizer.json")
            model = data["model"]
            only(model, path, type="BPE", dropout=None, byte_fallback=False,
                 continuing_subword_prefix="", end_of_word_suffix="")
            nfc = data.get("normalizer")
            only(nfc or {}, f"{path}: normalizer", type="NFC")
            steps = data.get("pre_tokenizer") or {"type": None}
            patterns = [split_pattern(step, path) for step in steps.get("pretokenizers", [steps])]
            for token in data["added_tokens"]:
                only(token, f"{path}: {token['content']!r}", lstrip=False, rstrip=False,
                     single_word=False)
            merges = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
            return cls(model["vocab"], merges, [pattern for pattern in patterns if pattern],
                       {t["content"]: t["id"] for t in data["added_tokens"]}, bool(nfc),
                       model.get("ignore_merges", False) is True)

    @classmethod
    def _from_vocab(cls, folder):
        path = folder / "merges.txt"
        with reading(path):
            lines = path.read_text(encoding="utf-8").split("\n")
            merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
        path = folder / "tokenizer_config.json"
        with reading(path):
            config = read_json(path) if path.exists() else {}
            only(config, path, tokenizer_class=("Qwen2Tokenizer", "Qwen2TokenizerFast"))
            added = {token["content"]: int(i)
                     for i, token in config.get("added_tokens_decoder", {}).items()}
        path = folder / "vocab.json"
        with reading(path):
            return cls(read_json(path), merges, [QWEN_PATTERN], added, nfc=True)

    def save_pretrained(self, folder):
        """Write folder/tokenizer.json, which the `tokenizers` library reads too."""
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        added = [{"id": i, "content": token, **plain, "special": True}
                 for token, i in sorted(self.added.items(), key=lambda item: item[1])]
        splits = [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated",
                   "invert": False} for pattern in self.patterns]
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False,
                      "use_regex": False}
        write_json(Path(folder) / "tokenizer.json", {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
            "normalizer": {"type": "NFC"} if self.nfc else None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, byte_level]},
            "post_processor": byte_level, "decoder": byte_level,
            "model": {"type": "BPE", "ignore_merges": self.ignore_merges, "vocab": self.vocab,
                      "merges": [" ".join(merge) for merge in self.merges]}})


def split_pattern(step, path):
    """The regex of one pre-tokenizer of a tokenizer.json; None where it does not split."""
    kind, pattern = step["type"], step.get("pattern", {})
    if kind == "Split" and "Regex" in pattern:
        only(step, path, behavior="Isolated", invert=False)
        return pattern["Regex"]
    if kind == "Digits":
        return r"\p{N}" if step["individual_digits"] else r"\p{N}+"
    check(kind == "ByteLevel", f"{path}: pre_tokenizer {step} is not supported")
    only(step, path, add_prefix_space=False)
    return GPT2_PATTERN if step.get("use_regex", True) else None
