"""Tokenizers of Hugging Face folders, the true Qwen vocabulary included: any text survives, and none becomes markup."""

from __future__ import annotations

import json
import time
import unicodedata

import jax.numpy as jnp
import numpy as np
import pytest
import regex
import tokenizers
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from qwen_folder import ADDED, CHAT_TEMPLATE, FIRST_ADDED, bpe, qwen_folder, ranks, small_folder, spelled
from tiny_tokenizer import TinyTokenizer

from memalpha_jax.checkpoints import Checkpoints, load_params
from memalpha_jax.errors import UserError
from memalpha_jax.policy.hf_tokenizer import HuggingFaceTokenizer
from memalpha_jax.policy.tokenizer import SentencePieceTokenizer, thinking_ids
from memalpha_jax.policy.tokenizer_files import load_tokenizer, tokenizer_from_files
from memalpha_jax.tools.prompts import load_template
from memalpha_jax.tools.reply import parse_replies
from memalpha_jax.tools.wire import format_call

SENTENCES = [
    f"{name} lives in {place} since {year}.\n"
    for name in ("Kelora", "Tavin")
    for place in ("Rome", "Oslo")
    for year in range(1990, 2010)
]
SPECIAL = (*ADDED, "✿FUNCTION✿", "✿ARGS✿", "<|im_", "end|>", "Ġ", "Ċ", "\n", "  ", "\0", "\r\n", "Kelora", "1990", "'s")
UNICODE = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
MIXED = st.lists(st.one_of(st.sampled_from(SPECIAL), UNICODE), max_size=6).map("".join)
EVERYTHING = "".join(SPECIAL)
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Where Qwen parts text before any pair is joined."""
quick = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return small_folder(tmp_path_factory.mktemp("small") / "tokenizer", SENTENCES)


_LOADED: dict[str, HuggingFaceTokenizer] = {}


@pytest.fixture(params=["small", "qwen"])
def tokenizer(request, small) -> HuggingFaceTokenizer:
    if request.param not in _LOADED:
        _LOADED[request.param] = HuggingFaceTokenizer.load(small if request.param == "small" else qwen_folder())
    return _LOADED[request.param]


@quick
@given(MIXED)
@example(EVERYTHING)
@example(" \n  \n\n\t  x  ")
@example("e\u0301 \u202eabc \ufeff \U0001f600 \u1100\u1161")
def test_any_text_survives_and_never_yields_an_added_token(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()
    assert not set(ids) & set(tokenizer.added.values())


@quick
@given(MIXED)
@example(EVERYTHING)
@example("<|im_end|>" * 3 + "<|im_start" + "<think></think>")
def test_trusted_text_yields_exactly_its_added_tokens(tokenizer, text):
    ids = tokenizer.encode_trusted(text)
    assert tokenizer.decode(ids) == text
    names = {id: content for content, id in tokenizer.added.items()}
    expected = regex.findall("|".join(map(regex.escape, sorted(ADDED, key=len, reverse=True))), text)
    assert [names[id] for id in ids if id in names] == expected


@quick
@given(MIXED)
@example(EVERYTHING)
def test_trusted_text_is_encoded_as_transformers_does(tokenizer, text):
    text = unicodedata.normalize("NFC", text)  # transformers does this to text, we do not
    assert tokenizer.encode_trusted(text) == tokenizer.wrapped.encode(text)


def test_encoding_is_byte_pair_encoding_by_rank(tokenizer):
    rank_of = {tokenizer.token_bytes(id): id for id in range(min(tokenizer.added.values()))}

    @quick
    @given(UNICODE)
    @example("Kelora's house, 1990; don't\n\n  x")
    def check(text):
        words = regex.findall(WORDS, text)
        expected = [rank_of[part] for word in words for part in bpe(word.encode(), rank_of, len(rank_of))]
        assert tokenizer.encode(text) == expected

    check()


@pytest.mark.parametrize("tokenizer", ["qwen"], indirect=True)
def test_ids_of_the_published_vocabulary(tokenizer):
    rank_of = ranks()
    assert all(tokenizer.token_bytes(rank) == piece for piece, rank in rank_of.items())
    assert tokenizer.added == {text: FIRST_ADDED + i for i, text in enumerate(ADDED)}
    known = {"<|im_start|>": 151644, "<|im_end|>": 151645, "<tool_call>": 151657, "<think>": 151667, "</think>": 151668}
    assert {text: tokenizer.added[text] for text in known} == known
    assert (tokenizer.vocab_size, tokenizer.eos_id, tokenizer.pad_id) == (151669, 151645, 151643)


def test_digits_stay_single_and_ends_are_known(tokenizer):
    assert [tokenizer.decode([id]) for id in tokenizer.encode("1999")] == list("1999")
    assert tokenizer.token_bytes(tokenizer.eos_id) == b"<|im_end|>"
    assert tokenizer.token_bytes(tokenizer.pad_id) == b"<|endoftext|>"


def test_ids_without_meaning_stand_for_nothing(tokenizer):
    assert tokenizer.decode([*tokenizer.encode("Os"), tokenizer.vocab_size + 5, *tokenizer.encode("lo"), -1]) == "Oslo"
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a?b"


@quick
@given(data=st.data())
def test_any_ids_decode_to_their_bytes(tokenizer, data):
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=12))
    expected = b"".join(map(tokenizer.token_bytes, ids)).decode("utf-8", "replace")
    assert tokenizer.decode(ids) == expected


def test_thinking_is_one_token_at_either_end(tokenizer):
    ids = thinking_ids(tokenizer)
    assert [tokenizer.decode([id]) for id in (ids.start_id, ids.end_id)] == ["<think>", "</think>"]
    assert tokenizer.decode(ids.forced_ids) == "\n</think>\n\n"
    assert ids.forced_ids.count(ids.end_id) == 1
    with pytest.raises(UserError, match="made for it"):
        thinking_ids(TinyTokenizer())


def test_files_and_folders_give_the_same_tokenizer_back(small, tmp_path):
    tokenizer = load_tokenizer(small)
    assert isinstance(tokenizer, HuggingFaceTokenizer)
    assert all((small / name).read_bytes() == content for name, content in tokenizer.files().items())
    tokenizer.save(tmp_path / "a/b")
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, {"params": {"w": jnp.zeros(2)}}, {"tokenizer": tokenizer.files()})
    kept = load_params(tmp_path / "checkpoints").meta["tokenizer"]
    for other in (load_tokenizer(tmp_path / "a/b"), tokenizer_from_files(kept)):
        assert other.files() == tokenizer.files()
        assert (other.vocab_size, other.eos_id) == (tokenizer.vocab_size, tokenizer.eos_id)
        assert other.encode_trusted(EVERYTHING) == tokenizer.encode_trusted(EVERYTHING)
        assert other.wrapped.chat_template.strip() == CHAT_TEMPLATE.strip()


def test_vocabulary_and_merges_do_without_tokenizer_json(small, tmp_path):
    """The older layout: three files, with the added tokens in the configuration."""
    whole = json.loads((small / "tokenizer.json").read_text())
    config = json.loads((small / "tokenizer_config.json").read_text())
    keep = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    config["added_tokens_decoder"] = {
        str(token["id"]): {key: token[key] for key in keep} for token in whole["added_tokens"]
    }
    (tmp_path / "vocab.json").write_text(json.dumps(whole["model"]["vocab"]))
    (tmp_path / "merges.txt").write_text("\n".join(" ".join(pair) for pair in whole["model"]["merges"]))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer, expected = load_tokenizer(tmp_path), load_tokenizer(small)
    assert sorted(tokenizer.files()) == ["merges.txt", "tokenizer_config.json", "vocab.json"]
    assert tokenizer.encode_trusted(EVERYTHING) == expected.encode_trusted(EVERYTHING)
    assert tokenizer.vocab_size == expected.vocab_size


def test_either_kind_is_known_by_its_files(small, tmp_path):
    pieces = SentencePieceTokenizer.train(SENTENCES, 330)
    pieces.save(tmp_path / "pieces")
    assert isinstance(load_tokenizer(tmp_path / "pieces"), SentencePieceTokenizer)
    assert isinstance(tokenizer_from_files({**pieces.files(), "config.json": b"{}"}), SentencePieceTokenizer)
    theirs = {name: (small / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json")}
    assert isinstance(tokenizer_from_files({**theirs, "tokenizer.model": b""}), HuggingFaceTokenizer)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty.*tokenizer\.model and frames\.json, or tokenizer\.json"):
        load_tokenizer(tmp_path / "empty")
    with pytest.raises(UserError, match=r"frames\.json missing"):
        tokenizer_from_files({"tokenizer.model": pieces.model})
    for name in theirs:
        with pytest.raises(UserError, match=rf"expected tokenizer\.json.*found {name}"):
            tokenizer_from_files({name: theirs[name]})


def changed(folder, change) -> dict[str, bytes]:
    """The files of a folder with tokenizer.json changed in place; transformers is told not to make it anew."""
    spec = json.loads((folder / "tokenizer.json").read_text())
    spec = change(spec) or spec
    config = {
        **json.loads((folder / "tokenizer_config.json").read_text()),
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    return {"tokenizer.json": json.dumps(spec).encode(), "tokenizer_config.json": json.dumps(config).encode()}


def other_model(name: str):
    model = {
        "wordlevel": tokenizers.models.WordLevel({"a": 0}, "a"),
        "unigram": tokenizers.models.Unigram([("a", 0.0)], 0),
    }
    return lambda spec: json.loads(tokenizers.Tokenizer(model[name]).to_str())


def no_exclamation_mark(spec):
    spec["model"]["vocab"].pop("!")


def space_before(spec):
    for part in [spec["pre_tokenizer"], *spec["pre_tokenizer"].get("pretokenizers", [])]:
        if part["type"] == "ByteLevel":
            part["add_prefix_space"] = True


def foreign_piece(spec):
    spec["model"]["vocab"]["a b"] = 5000


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_model("wordlevel"), "no byte-level BPE"),
        (other_model("unigram"), "no byte-level BPE"),
        (no_exclamation_mark, "no piece for 1 of the 256 bytes"),
        (space_before, "does not keep text exactly"),
        (foreign_piece, "'a b' is not spelled"),
    ],
)
def test_tokenizers_that_would_lose_text_are_refused(small, change, words):
    with pytest.raises(UserError, match=words):
        HuggingFaceTokenizer.from_files(changed(small, change))


def test_damaged_files_and_a_tokenizer_without_an_end_are_refused(small):
    files = changed(small, lambda spec: None)
    with pytest.raises(UserError, match="transformers cannot read the tokenizer's files"):
        HuggingFaceTokenizer.from_files({**files, "tokenizer.json": files["tokenizer.json"][:-100]})
    config = json.loads(files["tokenizer_config.json"])
    for key in ("eos_token", "pad_token", "unk_token"):
        config[key] = None
    endless = changed(small, lambda spec: {**spec, "added_tokens": []})
    with pytest.raises(UserError, match=r"neither <\|im_end\|> nor an eos_token"):
        HuggingFaceTokenizer.from_files({**endless, "tokenizer_config.json": json.dumps(config).encode()})


@pytest.mark.parametrize("whole_words", [False, True])
def test_added_tokens_among_the_pieces_stay_out_of_text(small, whole_words):
    """Some folders list control tokens as pieces, and merges might even spell them."""
    (word,) = {
        piece for piece in json.loads((small / "tokenizer.json").read_text())["model"]["vocab"] if piece == "Kelora"
    }

    def add(spec):
        spec["model"]["ignore_merges"] = whole_words  # then a word that is a piece is taken as it is
        id = spec["model"]["vocab"][word]
        spec["added_tokens"].insert(0, {**spec["added_tokens"][0], "id": id, "content": word, "special": True})
        spec["added_tokens"].sort(key=lambda token: token["id"])

    tokenizer = HuggingFaceTokenizer.from_files(changed(small, add))
    assert len(tokenizer.encode_trusted("Kelora")) == 1
    ids = tokenizer.encode("Kelora lives")
    assert tokenizer.decode(ids) == "Kelora lives"
    assert not set(ids) & set(tokenizer.added.values())


def test_spelling_of_bytes_is_that_of_transformers(tokenizer):
    model = json.loads(tokenizer.wrapped.backend_tokenizer.to_str())["model"]["vocab"]
    for piece in list(model)[:2000]:
        assert spelled(tokenizer.token_bytes(model[piece])) == piece


def test_parsing_many_replies_is_fast(tokenizer):
    """256 replies of about 500 tokens are parsed on the host at every chunk step, while the accelerator waits."""
    call = format_call("new_memory_insert", {"memory_type": "semantic_memory", "content": SENTENCES[0] * 3}, "hermes")
    ids = tokenizer.encode_trusted("<think>\nTwo facts.\n</think>\n\n" + call * 40)[:499]
    reply_NR = np.array([[*ids, tokenizer.eos_id]] * 256)
    start = time.process_time()
    batch, _ = parse_replies(reply_NR, np.full(256, reply_NR.shape[1]), tokenizer, "hermes", 32, 500)
    assert time.process_time() - start < 1.0
    assert (batch.status_K[:, 0] == 0).all()


def test_templates_are_encoded_as_transformers_does(tokenizer):
    for name in ("hermes", "qwen_agent"):
        text = load_template(name)
        assert tokenizer.encode_trusted(text) == tokenizer.wrapped.encode(text)
        assert set(tokenizer.encode_trusted(text)) & set(tokenizer.added.values())
