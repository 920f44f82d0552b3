"""The data of the interactive parts about one text: tokenizer, attention, sampler, mask."""

import json

import numpy as np
import pytest

import minigrad as mg
from chapters.ch01_tokenizer import Tokenizer
from chapters.ch04_attention import attention_maps
from chapters.ch06_gpt import load_model
from chapters.ch10.sft import build_example
from chapters.interactive.attention import LONGEST, TEXTS, attention_data
from chapters.interactive.mask import mask_data
from chapters.interactive.models import MODELS
from chapters.interactive.pages import PAGES
from chapters.interactive.sampler import PROMPTS, sampler_data
from chapters.interactive.tokenizer import tokenizer_data, vocabulary
from chapters.support.json_files import write_result


@pytest.fixture(scope="module")
def base(tiny_run):
    return load_model(tiny_run / "pretrain")


def ids_of(tokenizer, tokens):
    """The ids of tokens that are spelled with one character per byte."""
    return [tokenizer.ranks[token.encode("latin-1")] for token in tokens]


def test_every_part_is_json_without_numbers_that_json_lacks(tiny_run):
    for part in PAGES:
        json.dumps(part.data(tiny_run), allow_nan=False)
        assert part.title and part.lead[-1] in ".?", part.name


def test_a_folder_without_a_run_is_a_users_mistake(tmp_path):
    for part in PAGES:
        with pytest.raises((OSError, ValueError)):
            part.data(tmp_path)


def test_a_result_of_an_earlier_version_is_a_users_mistake(tmp_path):
    (tmp_path / "side_by_side").mkdir()
    write_result(tmp_path / "side_by_side" / "result.json", {"models": {}})
    with pytest.raises(ValueError, match="models: expected 'shown' in the results of .*, got none; run the main job again"):
        MODELS.fragment(tmp_path)


def test_the_vocabulary_lists_the_tokens_in_the_order_of_their_ranks(tiny_run, base):
    _, tokenizer = base
    written = tokenizer_data(tiny_run)["vocabulary"]
    assert ids_of(tokenizer, written["tokens"]) == list(range(len(tokenizer.ranks)))
    assert written["pattern"] == tokenizer.pattern and written["end"] == tokenizer.eos_id


def test_a_tokenizer_of_characters_is_refused():
    with pytest.raises(ValueError, match="expected tokens made of bytes"):
        vocabulary(Tokenizer.characters("abc"))


def test_attention_writes_the_models_own_weights_for_different_texts(tiny_run, base):
    model, tokenizer = base
    texts = attention_data(tiny_run)["texts"]
    corpus = (tiny_run / "world" / "documents.txt").read_text(encoding="utf-8")
    assert len(texts) == TEXTS
    repeated = [max(map(text["tokens"].count, text["tokens"])) / len(text["tokens"]) for text in texts]
    assert repeated == sorted(repeated, reverse=True)  # the first shows best how tokens attend to earlier mentions
    for text in texts:
        ids = ids_of(tokenizer, text["tokens"])
        assert len(ids) <= LONGEST and tokenizer.decode(ids) in corpus
        for layer, heads in enumerate(text["maps"]):
            for rows, weights in zip(heads, attention_maps(model, ids, layer), strict=True):
                for t, row in enumerate(rows):
                    np.testing.assert_allclose(row, 1000 * weights[t, : t + 1], atol=0.51)
        assert len(text["maps"]) == model.config.n_layer


def test_the_sampler_writes_the_models_scores_of_the_token_after_each_prompt(tiny_run, base):
    model, tokenizer = base
    written = sampler_data(tiny_run)
    assert ids_of(tokenizer, written["tokens"][:-1]) == list(range(tokenizer.vocab_size - 1))
    assert written["tokens"][-1] == "<|endoftext|>"
    for prompt, step in zip(PROMPTS, written["steps"], strict=True):
        ids = tokenizer.encode(prompt) if prompt else [tokenizer.eos_id]
        logits = model(mg.tensor([ids])).numpy(force=True)[0, -1]  # (V,)
        np.testing.assert_allclose(step["logits"], logits, atol=1e-4)


def test_the_mask_begins_with_pairs_of_the_run_and_its_own_templates(tiny_run, base):
    _, tokenizer = base
    written = mask_data(tiny_run)
    assert len(written["pairs"]) > 1 and any(pair["input"] for pair in written["pairs"])
    for pair in written["pairs"]:
        assert pair["instruction"] and pair["reference"]
    template = written["template"].replace("{instruction}", "Sing.")
    ids, labels = build_example("Sing.", "La.", tokenizer.encode)
    assert tokenizer.decode(ids) == template + "La." and labels[-1] == written["ignore_index"]
