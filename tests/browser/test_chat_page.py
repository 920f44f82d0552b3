"""The chat page, in a browser and on the true server, with small untrained models."""

import json
import math
import threading
import time
from itertools import count
from urllib.request import Request, urlopen

import pytest

import minigrad as mg
from chapters.ch01_tokenizer import END_OF_TEXT, Tokenizer
from chapters.ch06_gpt import GPT, GPTConfig
from chapters.ch09.serve import __main__ as serve
from chapters.ch09.serve import scheduler
from chapters.ch09.serve.models import Reward, ServedModel
from chapters.ch10.reward import ScalarModel, save_scalar
from chapters.support.run_folder import Run
from kernels.terminal import visible
from tests import hostile
from tests.browser.conftest import DESKTOP, PHONE, check_page
from tests.tiny_job import tiny_tokenizer


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, ServedModel]:
    """ "answers" reads instructions and has a reward model, "talks" reads conversations, "endless" never ends a text."""
    tokenizer = tiny_tokenizer()
    numbers = count(len(tokenizer.ranks))
    special = {name: next(numbers) for name in (END_OF_TEXT, "<|im_start|>", "<|im_end|>")}
    marks_turns = Tokenizer(tokenizer.ranks, tokenizer.pattern, special)

    def gpt(vocab_size: int, context: int, seed: int) -> GPT:
        config = GPTConfig(vocab_size, context, n_layer=1, n_head=2, d_model=16, init_std=0.8)  # some tokens are likely
        return GPT(config, generator=mg.Generator(seed)).eval()

    def served(name: str, tokenizer: Tokenizer, form: str, context: int) -> ServedModel:
        return ServedModel(name, gpt(tokenizer.vocab_size, context, len(name)), tokenizer, form, 2, context)

    folder = tmp_path_factory.mktemp("reward")
    save_scalar(Run(folder), ScalarModel(gpt(tokenizer.vocab_size, 512, 5), mg.Generator(6)))
    answers, talks = served("answers", tokenizer, "instruction", 512), served("talks", marks_turns, "turns", 512)
    endless = served("endless", tokenizer, "text", 16_384)
    answers.reward, endless.stop_ids = Reward(folder), set()
    return {model.name: model for model in (answers, talks, endless)}


@pytest.fixture(scope="module")
def address(models):
    uvicorn = pytest.importorskip("uvicorn", reason="the server is not installed: pip install -e '.[serve]'")
    pytest.importorskip("starlette")
    batches = scheduler.Scheduler([model.batch for model in models.values()])
    app = serve.build(serve.Settings(), models, batches, lambda line: None)
    with serve.listen("127.0.0.1", 0) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield serve.address_of(listener)
        server.should_exit = True
        thread.join()


def choose_models(page, first: str, second: str = "", **settings) -> None:
    """Choose the models by name and type settings; the page must have loaded its models."""
    page.locator("#model option").first.wait_for(state="attached")
    page.locator("#settings").evaluate("details => { details.open = true }")
    page.select_option("#model", label=first)
    page.select_option("#second", label=second or "no second model")
    for name, value in settings.items():
        page.fill(f"#{name}", str(value))


def ask(page, text: str) -> None:
    page.fill("#question", text)
    page.press("#question", "Enter")


def finish(page) -> None:
    page.locator("#send", has_text="Send").wait_for()


def completion(address: str, **fields) -> list[dict]:
    """The tokens of an answer, asked for without the page."""
    fields = {"logprobs": True, "top_logprobs": 5, "temperature": 0.7, "top_p": 0.9, "max_tokens": 30, **fields}
    request = Request(f"{address}/v1/chat/completions", json.dumps(fields).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=20) as reply:
        return json.load(reply)["choices"][0]["logprobs"]["content"]


def text_of(tokens: list[dict]) -> str:
    return visible(b"".join(bytes(token["bytes"]) for token in tokens).decode("utf-8", "replace"))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(("viewport", "colour"), [(PHONE, "probability"), (DESKTOP, "reward")], ids=["phone", "desktop"])
def test_the_page_is_readable(address, open_page, viewport, colour, dark):
    page = open_page(address, viewport, dark)
    choose_models(page, "answers", "talks", max_tokens=40, seed=0)
    ask(page, "W" * 200)  # a word that is wider than a phone
    page.locator(".counts", has_text="reward").wait_for()
    finish(page)
    page.locator(".unit").nth(4).click()
    page.locator(f"[value={colour}]").check()
    check_page(page)


def test_an_answer_its_alternatives_and_a_branch(address, open_page):
    page = open_page(address)
    choose_models(page, "answers", max_tokens=30, seed=3)
    ask(page, "Who is Lara?")
    finish(page)
    request = dict(model="answers", messages=[{"role": "user", "content": "Who is Lara?"}], seed=3)
    tokens = completion(address, **request)
    body, units, card = page.locator(".tokens"), page.locator(".unit"), page.locator("#card")
    assert body.text_content() == text_of(tokens)

    # each token has the colour of its probability, unless the reader switches colours off
    backgrounds = "spans => new Set(spans.map((span) => getComputedStyle(span).backgroundColor)).size"
    assert units.evaluate_all(backgrounds) > 1
    page.locator("[value=nothing]").check()
    assert units.evaluate_all(backgrounds) == 1

    # the card has the server's probabilities
    words = [token["token"] for token in tokens]
    word = next(word for word in words[3:] if word.isalpha() and word.isascii())
    place = words.index(word)
    units.nth(units.all_text_contents().index(word)).hover()
    card.wait_for()
    rows = {token["id"]: token for token in (tokens[place], *tokens[place]["top_logprobs"])}
    likeliest = sorted(rows.values(), key=lambda token: -token["logprob"])
    shown = [float(text.strip("%")) for text in card.locator(".row > span:last-child").all_text_contents()]
    assert shown == pytest.approx([100 * math.exp(token["logprob"]) for token in likeliest], abs=0.5)  # percent

    # another token there, and the model goes on from it, as the server does with this prefix
    other = next(token for token in likeliest if token["id"] != tokens[place]["id"])
    card.locator("button.row").first.click()
    page.locator(".branches", has_text="2/2").wait_for()
    finish(page)
    prefix = [*tokens[:place], other]
    rest = completion(address, **request, prefix_tokens=[token["id"] for token in prefix])
    assert body.text_content() == text_of([*prefix, *rest])
    assert page.locator(".chosen").text_content() == text_of([other])

    # the first answer is still there
    page.get_by_label("Earlier answer").click()
    assert page.locator(".branches").text_content() == "‹1/2›" and body.text_content() == text_of(tokens)
    page.get_by_label("Earlier answer").click()
    assert page.locator(".branches").text_content() == "‹2/2›"  # around
    assert page.locator("#status").text_content() == f"Answer 2 of 2: {body.text_content()}"


def test_the_keyboard_reaches_every_token_and_its_alternatives(address, open_page):
    page = open_page(address)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # skips the settings
    assert page.evaluate("document.activeElement.id") == "question"
    choose_models(page, "answers", max_tokens=20)
    ask(page, "Who is Lara?")
    finish(page)
    focused = lambda: page.evaluate("[...document.querySelectorAll('.unit')].indexOf(document.activeElement)")  # noqa: E731
    card, last = page.locator("#card"), page.locator(".unit").count() - 1
    page.locator("#fresh").focus()
    while focused() < 0:
        page.keyboard.press("Tab")
    assert focused() == 0 and card.is_visible()
    for key, place in {"ArrowRight": 1, "End": last, "ArrowLeft": last - 1, "Home": 0}.items():
        page.keyboard.press(key)
        assert focused() == place and card.is_visible()
    assert "instead: " in page.locator("#status").text_content()
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.parentElement.id") == "card"
    page.keyboard.press("Escape")
    assert focused() == 0 and card.is_hidden()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")  # the likeliest alternative
    page.locator(".branches", has_text="2/2").wait_for()
    assert page.locator(".unit").first.get_attribute("class") == "unit chosen"
    assert focused() == 0 and card.is_hidden()  # where the new answer begins
    page.keyboard.press("ArrowDown")
    page.get_by_role("button", name="Write again from here").focus()
    page.keyboard.press("Enter")
    page.locator(".branches", has_text="3/3").wait_for()
    assert page.evaluate("document.activeElement.className") == "tokens"  # nothing was kept of the answer before


def test_stop_frees_the_server_and_keeps_what_was_written(address, models, open_page, monkeypatch):
    def slow_step(decoders, tokens, step=scheduler.step_together):
        time.sleep(0.002)
        return step(decoders, tokens)

    monkeypatch.setattr(scheduler, "step_together", slow_step)
    page = open_page(address)
    choose_models(page, "endless", max_tokens=16_000)
    ask(page, "Once")
    page.locator(".unit").nth(5).wait_for()
    page.fill("#question", "typed meanwhile")
    page.press("#question", "Enter")  # neither stops nor sends
    page.locator("#send", has_text="Stop").click()
    finish(page)
    assert "stopped" in page.locator(".counts").text_content()
    assert 5 < page.locator(".unit").count() < 16_000
    assert page.input_value("#question") == "typed meanwhile"
    deadline = time.monotonic() + 10
    while models["endless"].batch.busy:
        assert time.monotonic() < deadline, "the server goes on with an answer that nobody reads"
        time.sleep(0.02)


def test_two_models_side_by_side(address, open_page):
    page = open_page(address)
    choose_models(page, "answers", "talks", max_tokens=20)
    ask(page, "Who is Lara?")
    finish(page)
    left, right = (column.bounding_box() for column in page.locator(".column").all())
    assert left["y"] == right["y"] and left["x"] + left["width"] < right["x"]
    assert page.locator(".model").all_text_contents() == ["answers", "talks"]
    page.locator(".counts", has_text="reward").wait_for()
    page.locator("[value=reward]").check()
    assert page.locator(".column").first.locator(".unit[data-reward='2'], .unit[data-reward='-2']").count() > 0
    page.set_viewport_size(PHONE)
    left, right = (column.bounding_box() for column in page.locator(".column").all())
    assert left["x"] == right["x"] and left["y"] + left["height"] < right["y"]


def test_a_conversation_has_branches(address, open_page):
    """The model reads the answers on show, and the turns after an answer return with it."""
    page = open_page(address)
    choose_models(page, "talks", max_tokens=10, system="Be brief.")
    turns, read = page.locator(".turn"), []
    page.on("request", lambda request: read.append(request.post_data_json["messages"]) if request.method == "POST" else None)
    for question in ("one", "two"):
        ask(page, question)
        finish(page)
    page.get_by_role("button", name="Write again", exact=True).first.click()
    finish(page)
    assert turns.count() == 1
    ask(page, "three")
    finish(page)
    page.get_by_label("Earlier answer").first.click()
    assert turns.locator(".asked").all_text_contents() == ["one", "two"]
    page.get_by_label("Later answer").first.click()
    assert turns.locator(".asked").all_text_contents() == ["one", "three"]
    assert [[message["content"] for message in messages if message["role"] != "assistant"] for messages in read] == [
        ["Be brief.", "one"], ["Be brief.", "one", "two"], ["Be brief.", "one"], ["Be brief.", "one", "three"],
    ]  # fmt: skip
    second, fourth = (next(m["content"] for m in read[i] if m["role"] == "assistant") for i in (1, 3))
    assert second != fourth
    page.get_by_role("button", name="New conversation").click()
    assert turns.count() == 0


def events(*texts: str | bytes, end: str = "data: [DONE]\n\n") -> str:
    """A stream whose tokens have these texts; each has all of them as alternatives."""
    pieces = [text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass") for text in texts]
    tokens = [
        {"id": i, "token": piece.decode("utf-8", "replace"), "bytes": list(piece), "logprob": -1.5}
        for i, piece in enumerate(pieces)
    ]
    chunks = [{"choices": [{"logprobs": {"content": [{**token, "top_logprobs": tokens}]}}]} for token in tokens]
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + end


def test_texts_stay_texts(address, open_page):
    """Neither a question nor an answer becomes markup, runs, hides, or reorders a line; split characters are joined."""
    page = open_page(address)
    dialogs = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    choose_models(page, "talks")
    elements = "document.querySelectorAll('main script, img, svg, [onload], [onerror], a:not(.skip)').length"
    body = events(
        *hostile.ALL.splitlines(keepends=True), "\n", b"caf\xc3", b"\xa9 \xf0\x9f", b"\x98", b"\x80", b"\xff!", b"\xe2\x82"
    )
    page.route("**/v1/chat/completions", lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    typed = "\n".join(text for name, text in hostile.TEXTS.items() if name != "no character")  # Playwright cannot type it
    ask(page, typed)
    finish(page)
    written = hostile.ALL.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    assert page.locator(".tokens").text_content() == visible(written + "\ncafé 😀\ufffd!\ufffd")
    assert page.locator(".unit", has_text="café 😀").count() == 1
    assert page.locator(".asked").text_content() == visible(typed.replace("\r", "\n"))
    page.locator(".unit").first.click()
    labels = page.locator("#card code").all_text_contents()
    assert "<script>alert(1)</script>↵" in labels and "\\xa9␣\\xf0\\x9f" in labels
    assert page.evaluate(elements) == 0 and not dialogs
    whole = page.locator("body").inner_text()
    assert visible(whole) == whole


def test_the_end_of_an_answer_can_be_chosen(address, models, open_page, monkeypatch):
    monkeypatch.setattr(models["talks"], "stop_ids", {0})
    page = open_page(address)
    choose_models(page, "talks")
    body = events("<|im_end|>", "Yes", ", indeed")
    page.route("**/v1/chat/completions", lambda route: (time.sleep(0.3), route.fulfill(body=body)))  # all tokens at once
    ask(page, "Ready?")
    finish(page)
    rate, unit = page.locator(".counts").text_content().split("·")[1].split()
    assert unit == "tokens/s" and float(rate) <= 10  # 3 tokens in 0.3 seconds or more
    page.unroute_all()
    page.route("**/v1/chat/completions", lambda route: route.abort())  # nothing is asked again
    page.locator(".unit", has_text=", indeed").click()
    page.locator("#card").get_by_role("button", name="end of the answer").click()
    page.locator(".branches", has_text="2/2").wait_for()
    assert page.locator(".tokens").text_content() == "<|im_end|>Yes" and page.locator(".column .error").is_hidden()


def test_an_error_is_a_sentence_and_nothing_typed_is_lost(address, chromium):
    page = chromium.new_page()  # not open_page, because the browser logs each reply of status 400
    page.goto(address)
    choose_models(page, "answers", temperature=9, max_tokens=5)
    ask(page, "first")
    trouble = page.locator("#trouble")
    trouble.wait_for()
    assert trouble.text_content() == "temperature: expected a number from 0 to 2, got 9"
    assert page.input_value("#question") == "first" and page.locator(".turn").count() == 0

    page.route("**/v1/chat/completions", lambda route: route.abort())
    ask(page, "second")
    page.locator("#trouble", has_text="The server does not answer").wait_for()
    assert page.input_value("#question") == "second"

    page.unroute_all()
    page.route("**/v1/chat/completions", lambda route: route.fulfill(body=events("Once", " upon", end="")))
    ask(page, "third")
    page.locator(".column .error", has_text="in the middle").wait_for()
    assert page.locator(".tokens").text_content() == "Once upon" and trouble.is_hidden()
    page.close()
