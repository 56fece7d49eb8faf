"""Tokenizers: CLIP's, one trained on captions, one of a folder; stored and restored, they give the same tokens."""

from __future__ import annotations

import json
import pickle
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastclr.methods.tokenizers import BYTES, make_tokenizer, restored

WORDS = ["small", "big", "red", "blue", "green", "star", "circle", "square,", "top", "left", "on", "über", "漢字"]
CAPTIONS = [" ".join(random.Random(seed).choices(WORDS, k=seed % 12 + 1)) for seed in range(200)]


def test_a_trained_bpe_ends_each_text_and_knows_every_byte() -> None:
    library = pytest.importorskip("tokenizers")
    tokenizer = make_tokenizer("bpe", CAPTIONS, size=300)
    about = tokenizer.vocabulary
    assert BYTES + 3 < about.size <= 300
    texts = [*CAPTIONS, "", "A word that is new: Ωmega ☃", "x " * 100]
    found = tokenizer(texts)
    assert found.dtype == torch.int64 and found.shape == (len(texts), about.context)
    ends = (found == about.end).int()
    assert bool((ends.sum(1) == 1).all())
    for row, end in zip(found, ends.argmax(1), strict=True):
        assert bool((row[end + 1 :] == about.pad).all()) and not bool((row[:end] == about.pad).any())
    # the words come back
    plain = library.Tokenizer.from_str(tokenizer.stored())
    plain.decoder = library.decoders.ByteLevel()
    for text, row, end in zip(texts, found, ends.argmax(1), strict=True):
        words = plain.decode(row.tolist()).strip()
        assert words == text.lower().strip() or (end == about.context - 1 and text.lower().startswith(words[:-1]))
    assert torch.equal(tokenizer(["RED star"]), tokenizer(["red star"]))
    assert not torch.equal(tokenizer(["red star"]), tokenizer(["star red"]))


def test_the_length_is_what_the_longest_caption_takes() -> None:
    pytest.importorskip("tokenizers")
    assert make_tokenizer("bpe", ["a b"]).vocabulary.context == 16
    longest = make_tokenizer("bpe", 2 * ["a b", " ".join("abcdefghijklmnopqrst")]).vocabulary.context
    assert longest == 24  # twenty letters and both ends, in steps of eight
    assert make_tokenizer("bpe", ["x " * 500]).vocabulary.context == 77
    assert make_tokenizer("bpe", ["a b"], context=40).vocabulary.context == 40


def test_the_same_captions_give_the_same_tokens_in_another_process() -> None:
    pytest.importorskip("tokenizers")
    code = (
        "import sys, json; from fastclr.methods.tokenizers import make_tokenizer;"
        "print(make_tokenizer('bpe', json.load(sys.stdin)).stored())"
    )
    shuffled = random.Random(0).sample(CAPTIONS, len(CAPTIONS))
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(shuffled), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == make_tokenizer("bpe", CAPTIONS).stored()


@pytest.mark.parametrize("name", ["bpe", "open_clip"])
def test_what_is_stored_gives_the_same_tokens(name: str) -> None:
    pytest.importorskip("tokenizers")
    pytest.importorskip("open_clip")
    tokenizer = make_tokenizer(name, CAPTIONS, context=20)
    for again in (restored(tokenizer.stored()), pickle.loads(pickle.dumps(tokenizer))):
        assert again.vocabulary == tokenizer.vocabulary
        assert torch.equal(again(CAPTIONS), tokenizer(CAPTIONS))


def test_the_tokens_of_clip_are_those_of_open_clip_and_transformers() -> None:
    open_clip = pytest.importorskip("open_clip")
    tokenizer = make_tokenizer("open_clip", None)
    assert torch.equal(tokenizer(CAPTIONS), open_clip.tokenize(CAPTIONS))
    assert tokenizer(["a photo of a cat"])[0, :7].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert (tokenizer.vocabulary.size, tokenizer.vocabulary.context, tokenizer.vocabulary.end) == (49408, 77, 49407)


def test_a_folder_of_hugging_face_is_read_as_transformers_reads_it(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "star", "blue", "circle", "##s"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    theirs = transformers.BertTokenizerFast(vocab=str(tmp_path / "vocab.txt"))
    if theirs.vocab_size != len(words):  # transformers 4 takes a file by another name
        theirs = transformers.BertTokenizerFast(vocab_file=str(tmp_path / "vocab.txt"))
    theirs.save_pretrained(tmp_path)
    tokenizer = make_tokenizer(str(tmp_path), None, context=8)
    about = tokenizer.vocabulary
    texts = ["Red stars", "a blue circle", "", "red " * 20]
    expected = theirs(texts, padding="max_length", truncation=True, max_length=8, return_tensors="pt")["input_ids"]
    assert torch.equal(tokenizer(texts), expected)
    assert (about.size, about.context, about.end, about.pad) == (len(words), 8, words.index("[SEP]"), 0)
    assert torch.equal(restored(tokenizer.stored())(texts), expected)


def test_unsuitable_tokenizers_are_refused(tmp_path: Path) -> None:
    library = pytest.importorskip("tokenizers")
    with pytest.raises(FileNotFoundError, match=r"bpe, open_clip, or a folder with a tokenizer\.json"):
        make_tokenizer(str(tmp_path), None)
    with pytest.raises(ValueError, match="trained on captions, and there are none"):
        make_tokenizer("bpe", [])
    bare = library.Tokenizer(library.models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    bare.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="must end every text with a token of its own"):
        make_tokenizer(str(tmp_path), None)
    (tmp_path / "tokenizer.json").write_text("{]")
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        make_tokenizer(str(tmp_path / "tokenizer.json"), None)
    for broken in ("{]", "[]", '{"open_clip": {}}', '{"open_clip": {"context": "x"}}'):
        with pytest.raises(ValueError, match="no stored tokenizer"):
            restored(broken)
