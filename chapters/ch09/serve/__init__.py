"""Chapter 9, the server: one model answers many people at a time, in the browser and to programs.

    pip install -e '.[serve]'
    python -m chapters.ch09.serve --model smollm2                       # a page, and an endpoint that speaks OpenAI's protocol
    python -m chapters.ch09.serve --model runs/main/assistant runs/main/rlhf --reward runs/main/reward

The idea is continuous batching. Adding a token to a text must read all weights, and adding a token to each of eight texts
reads them once as well (decoder.py). So the server keeps a batch of unfinished texts and adds a token to all of them in each
step. A text joins the batch after any step and leaves when it is done, so nobody waits for somebody else's long answer.

scheduler.py     the batch: who joins, who leaves, and the steps between
transcript.py    from tokens to text that may be shown: whole characters, and nothing of a stop string
models.py        the models, and how each of them reads a conversation
openai_api.py    requests: what is read, and what is refused
replies.py       replies, whole or as a stream of events
app.py           addresses, limits, and which sites may ask
page/            the page

What to look at: ask in two windows at once. With SmolLM2 on two cores, two answers at once take about a third longer than one
of them alone; one after the other, they would take twice as long. The weights are read once, but the arithmetic doubles.

What is promised: a text depends on its request alone. With a `seed`, the same request gives the same text, whatever else is in
the batch, because every sum of a step runs in the same order for each text (on the CPU, with one number of threads, on one
machine).

The endpoint has three of OpenAI's addresses: /v1/models, /v1/completions and /v1/chat/completions. It differs from OpenAI's in
these points:

- A field that the server does not implement is refused, unless it holds the value that changes nothing (`presence_penalty: 0`).
- A model that was not tuned on whole conversations reads only the last question, and refuses a system message.
- An answer that reaches the end of the context ends with finish_reason "length"; a prompt that fills it is refused.
- logprobs are those of the model, before temperature, top_k and top_p.
- A token with text on both sides of the beginning of a stop string is listed in logprobs, and the text ends within it.
- Additions: `top_k` and `prefix_tokens` (ids with which the answer begins) in requests, `id` beside each token in chat's
  logprobs, `minigrad` in the list of models, and /minigrad/reward.
"""
