"use strict";
// The browser of episodes. What was said in one is only ever added as text (`append`, `title`), never as markup.
const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("episodes").textContent);
const ranges = data.unseen.map(([first, last]) => `\\u{${first.toString(16)}}-\\u{${last.toString(16)}}`);
const unseen = new RegExp(`([${ranges.join("")}])\\1*`, "gu");
const named = (fields, values) => Object.fromEntries(fields.map((field, i) => [field, values[i]]));
const plain = (place) => [].concat(data.strings[place])[0];
const all = data.episodes.map((values) => named(data.fields.episode, values));
const form = byId("filter"), list = byId("list"), article = byId("episode");
const PAGE = 50;
let found = [], chosen = 0;

for (const episode of all) {
  episode.turns = episode.turns.map((values) => named(data.fields.turn, values));
  for (const field of ["env", "seed", "seat", "outcome"]) episode[field] = plain(episode[field]);
  for (const turn of episode.turns) turn.parse = plain(turn.parse);
  episode.parses = [...new Set(episode.turns.map((turn) => turn.parse))];
}

// Building elements

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

/** The nodes that show a string: unseen characters by their number. */
function visible(string) {
  const nodes = [];
  let end = 0;
  for (const match of string.matchAll(unseen)) {
    const times = match[0].length / match[1].length, number = match[1].codePointAt(0).toString(16);
    const name = "U+" + number.toUpperCase().padStart(4, "0");
    const mark = element("mark", "", times > 1 ? `${name} x ${times.toLocaleString("en")}` : name);
    nodes.push(string.slice(end, match.index), mark);
    end = match.index + match[0].length;
  }
  return [...nodes, string.slice(end)];
}

/** The same for a place in the table of strings, with a note of what was cut off. */
function text(place) {
  const [string, rest] = [].concat(data.strings[place]);
  return string === "" ? [element("em", "", "(empty)")] : [...visible(string), ...leftOut(rest, "characters")];
}

function leftOut(count, what) {
  const note = `... and ${(count || 0).toLocaleString("en")} more ${what}, left out here`;
  return count ? [element("br"), element("em", "", note)] : [];
}

const prefix = (value) => value > 0 ? "+" : value < 0 ? "\u2212" : "";
const signed = (value) => value === null ? "not known" : prefix(value) + +Math.abs(value).toFixed(3);
const short = (value) => value === null ? "?" : Math.abs(value) < 0.005 ? "0" : signed(+value.toFixed(2));
const colours = new Map(Object.entries(data.colours)), words = new Map(Object.entries(data.words));
const colour = (name) => colours.get(name) || "even";
const sign = (value) => value > 0 ? "good" : value < 0 ? "bad" : "even";
const count = (number, one, more = one + "s") => `${number.toLocaleString("en")} ${number === 1 ? one : more}`;

// One episode

/** A message of the conversation. */
function message(role, head, body) {
  return element("div", role, element("p", "", ...head), element("pre", "", ...body));
}

function tokens(turn) {
  return turn.tokens.map((place, i) => {
    const chance = turn.p[i] ?? null, string = plain(place);
    const span = element("span", "token", ...visible(string));
    if (chance === null) return span;
    span.className += " p" + Math.min(9, Math.floor(chance / 100));
    span.title = `probability ${chance ? chance / 1000 : "below 0.0005"}`;
    return span;
  });
}

function reply(turn, number) {
  const parse = element("b", colour(turn.parse), ...visible(turn.parse));
  const advantage = element("b", sign(turn.advantage), signed(turn.advantage));
  const head = [`Reply ${number}: `, parse, `, reward ${signed(turn.reward)}, advantage `, advantage];
  head.push(`, ${count(turn.count, "token")}`, turn.cut ? ", cut at the limit" : "");
  const cut = turn.left ? leftOut(turn.left, "characters") : leftOut(turn.count - turn.tokens.length, "tokens");
  const shown = turn.tokens.length ? [...tokens(turn), ...cut] : text(turn.reply);
  const made = message("reply", head, shown);
  if (turn.tokens.length && turn.reply !== null) {
    made.append(element("p", "", "The same as text:"), element("pre", "", ...text(turn.reply)));
  }
  return made;
}

function pairs(values) {
  const shown = ([, value]) => typeof value === "number" ? [signed(value).replace("+", "")] : text(value[0]);
  const made = (pair) => element("div", "", element("dt", "", ...text(pair[0])), element("dd", "", ...shown(pair)));
  return values.map(made);
}

function show(episode) {
  const run = data.runs[episode.run], word = words.get(episode.outcome) || episode.outcome;
  const outcome = element("b", colour(episode.outcome), ...visible(word));
  const title = element("h3", "", `Step ${episode.step.toLocaleString("en")}: `, outcome);
  const facts = element("dl", "", ...pairs([...episode.terms.length > 1 ? episode.terms : [], ...episode.info]));
  const figures = `, return ${signed(episode.return)}, advantage ${signed(episode.advantage)}`;
  const line = ["Seat ", ...visible(episode.seat), `${figures}, ${count(episode.turns.length, "reply", "replies")}. `];
  const chat = element("div", "chat");
  if (plain(episode.rules)) {
    const head = element("summary", "", "Rules, the system message");
    chat.append(element("details", "rules", head, element("pre", "", ...text(episode.rules))));
  }
  for (const [i, turn] of episode.turns.entries()) {
    chat.append(message("game", ["Game"], text(turn.observation)), reply(turn, i + 1));
  }
  chat.append(element("p", "", ...leftOut(episode.more_turns, "replies").slice(1)));
  chat.append(message("game", ["Game, at the end"], text(episode.end)));
  const file = `episodes/step_${String(episode.step).padStart(6, "0")}.jsonl, line ${episode.line}`;
  const where = element("p", "note", ...visible(`${run.name}: ${file}; ${episode.env}, seed ${episode.seed}`));
  const seen = {
    turn: "Each reply answers the rules and the message right above it.",
    episode: "Each reply answers all that stands above it.",
  };
  article.replaceChildren(title, element("p", "note", ...line, seen[run.context] || ""), facts, chat, where);
}

// The list

function row(episode, place) {
  const outcome = element("b", colour(episode.outcome), ...visible(episode.outcome));
  const figures = [short(episode.return), short(episode.advantage), String(episode.turns.length)];
  const cells = [episode.step.toLocaleString("en"), outcome, ...figures];
  const made = element("li", "", ...cells.map((cell) => element("span", "", cell)));
  made.id = `row-${place}`;
  made.setAttribute("role", "option");
  made.addEventListener("click", () => choose(place, true));
  return made;
}

function turnTo(page) {
  const first = page * PAGE, shown = found.slice(first, first + PAGE);
  list.replaceChildren(...shown.map((episode, i) => row(episode, first + i)));
  const [from, to, of] = [first + 1, first + shown.length, found.length].map((number) => number.toLocaleString("en"));
  const range = `${from}\u2013${to} of ${of}`;
  byId("range").textContent = found.length ? range : "No episode is like that.";
  byId("back").disabled = page === 0;
  byId("on").disabled = first + PAGE >= found.length;
}

function choose(place, toChat = false) {
  if (!found.length) return article.replaceChildren();
  const page = (number) => Math.floor(number / PAGE), old = byId(`row-${chosen}`), before = chosen;
  chosen = Math.max(0, Math.min(place, found.length - 1));
  if (page(chosen) !== page(before) || !list.children.length) turnTo(page(chosen));
  else old?.removeAttribute("aria-selected");
  const now = byId(`row-${chosen}`);
  now.setAttribute("aria-selected", "true");
  list.setAttribute("aria-activedescendant", now.id);
  const top = now.offsetTop, bottom = top + now.offsetHeight - list.clientHeight;
  list.scrollTop = Math.min(Math.max(list.scrollTop, bottom), top);
  show(found[chosen]);
  byId("previous").disabled = chosen === 0;
  byId("next").disabled = chosen === found.length - 1;
  if (toChat && article.offsetTop > list.offsetTop) byId("steps").scrollIntoView();  // one column
}

// The filter

const said = (turn) => turn.reply === null ? turn.tokens.map(plain).join("") : plain(turn.reply);
const told = (turn) => [plain(turn.observation), said(turn)];
const haystack = (episode) => episode.haystack ??=
  [...episode.turns.flatMap(told), plain(episode.end), `seed ${episode.seed}`].join("\n").toLowerCase();
const ORDERS = {
  newest: (a, b) => b.step - a.step,
  oldest: (a, b) => a.step - b.step,
  "highest return": (a, b) => b.return - a.return,
  "lowest return": (a, b) => a.return - b.return,
  "largest advantage": (a, b) => Math.abs(b.advantage) - Math.abs(a.advantage),
  "most replies": (a, b) => b.turns.length - a.turns.length,
};
const FILTERS = {
  run: (e) => [e.run],
  env: (e) => [e.env],
  step: (e) => [e.step],
  outcome: (e) => [e.outcome],
  parse: (e) => e.parses,
  seat: (e) => [e.seat],
};

function filter() {
  const given = Object.fromEntries(new FormData(form)), sought = given.text.toLowerCase();
  const least = given.least === "" ? -Infinity : +given.least, most = given.most === "" ? Infinity : +given.most;
  const wanted = Object.entries(FILTERS).filter(([name]) => given[name]);
  const isWanted = (episode) => wanted.every(([name, of]) => of(episode).map(String).includes(given[name]));
  found = all.filter((episode) => isWanted(episode) && episode.return >= least && episode.return <= most
    && (!sought || haystack(episode).includes(sought)));
  found.sort(ORDERS[given.order]);
  chosen = 0;
  turnTo(0);
  choose(0);
}

for (const [name, of] of Object.entries(FILTERS)) {
  const counts = new Map();
  for (const episode of all) for (const value of of(episode)) counts.set(value, (counts.get(value) || 0) + 1);
  const values = [...counts.keys()].sort((a, b) => typeof a === "number" ? a - b : a < b ? -1 : 1);
  const called = (value) => name === "run" ? data.runs[value].name : value;
  const label = (value) => `${called(value)} (${counts.get(value).toLocaleString("en")})`;
  form.elements[name].append(new Option("all", ""), ...values.map((value) => new Option(label(value), value)));
  form.elements[name].parentElement.hidden = values.length < 2;
}
form.elements.order.append(...Object.keys(ORDERS).map((name) => new Option(name, name)));
form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
byId("back").addEventListener("click", () => choose((Math.floor(chosen / PAGE) - 1) * PAGE));
byId("on").addEventListener("click", () => choose((Math.floor(chosen / PAGE) + 1) * PAGE));
byId("previous").addEventListener("click", () => choose(chosen - 1));
byId("next").addEventListener("click", () => choose(chosen + 1));
article.addEventListener("click", (event) => event.target.closest(".token")?.classList.toggle("told"));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select")) return;
  const inList = { ArrowDown: chosen + 1, ArrowUp: chosen - 1, PageDown: chosen + 10, PageUp: chosen - 10 };
  Object.assign(inList, { Home: 0, End: found.length - 1 });
  const keys = { j: chosen + 1, k: chosen - 1, ...document.activeElement === list ? inList : {} };
  const to = keys[event.key];
  if (to === undefined) return;
  event.preventDefault();
  choose(to);
});

if (all.length) {
  byId("browser").hidden = false;
  byId("games").hidden = true;
  const total = data.total.toLocaleString("en"), shown = all.length.toLocaleString("en");
  const some = `${shown} of ${total} episodes: the newest steps whole, the first few of each earlier one.`;
  byId("which").textContent = all.length < data.total ? some : `All ${total} episodes.`;
  filter();
}
