// The server's endpoint: OpenAI's form, with the extensions top_k, prefix_tokens and a token's id.

async function request(path, body, signal) {
  let response;
  try {
    const json = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
    response = await fetch(path, { ...json, signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Error("The server does not answer. Is it still running?");
  }
  if (response.ok) return response;
  const answer = await response.json().catch(() => null);
  throw new Error(answer?.error?.message ?? `The server answered with status ${response.status}.`);
}

// [{id, form, context, parameters, reward}]
export async function models() {
  const { data } = await (await request("v1/models")).json();
  return data.map((model) => ({ id: model.id, ...model.minigrad }));
}

// {reward, by_token: [{token, reward}]} of the last message.
export const reward = async (model, messages) => (await request("minigrad/reward", { model, messages })).json();

// Yields {tokens, finish, usage} for each event of a streamed answer. Aborting the signal frees the server.
export async function* answer(body, signal) {
  const extras = { stream: true, stream_options: { include_usage: true }, logprobs: true, top_logprobs: 5 };
  const response = await request("v1/chat/completions", { ...body, ...extras }, signal);
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Error(chunk.error.message);
    const choice = chunk.choices[0];
    yield { tokens: choice?.logprobs?.content ?? [], finish: choice?.finish_reason, usage: chunk.usage };
  }
  throw new Error("The server ended the answer in the middle.");
}

// The data of each server-sent event.
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trim();
    }
  } finally {
    reader.cancel().catch(() => {}); // an aborted stream has ended already
  }
}
