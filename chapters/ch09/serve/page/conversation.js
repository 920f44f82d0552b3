// A conversation is a tree. A turn is one question with a column of answers for each model. The next turn belongs to the
// answers that were on show when its question was asked, so a turn keeps one next turn for each choice of answers.

export class Conversation {
  constructor() {
    this.root = { columns: [], next: new Map() };
  }

  // The turns on show, from the first to the last.
  path() {
    const turns = [];
    for (let turn = next(this.root); turn; turn = next(turn)) turns.push(turn);
    return turns;
  }

  // Ask a question of several models, after the answers on show. turn.withdraw() takes it out again.
  ask(question, models) {
    const columns = models.map((model) => ({ model, answers: [], shown: 0 }));
    const before = this.path().at(-1) ?? this.root;
    const place = choice(before);
    const turn = { question, columns, next: new Map(), withdraw: () => before.next.delete(place) };
    before.next.set(place, turn);
    return turn;
  }

  // What a model reads before it answers in a turn: the whole conversation, or the question alone.
  messages(turn, number, system) {
    const question = { role: "user", content: turn.question };
    if (turn.columns[number].model.form !== "turns") return [question];
    const turns = this.path();
    const earlier = turns.slice(0, turns.indexOf(turn)).flatMap(({ question, columns }) => {
      const { answers, shown } = columns[Math.min(number, columns.length - 1)];
      if (!answers[shown]?.text) return [];
      return [
        { role: "user", content: question },
        { role: "assistant", content: answers[shown].text },
      ];
    });
    return [...(system ? [{ role: "system", content: system }] : []), ...earlier, question];
  }
}

const choice = (turn) => turn.columns.map((column) => column.shown).join();
const next = (turn) => turn.next.get(choice(turn));
