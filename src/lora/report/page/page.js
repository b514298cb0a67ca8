"use strict";
(() => {
  const PAGE_ROWS = 100;
  const SYMBOLS = { s: "≠", i: "+", d: "−" };
  const KINDS = { s: "sub", i: "ins", d: "del" };
  const NAMES = { s: "instead of", i: "added", d: "missing" };
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const controls = { find: byId("find"), show: byId("show"), set: byId("set"), speaker: byId("speaker"), sort: byId("sort") };
  const body = byId("table").tBodies[0];
  const open = new Set();
  let found = [];
  let numShown = 0;

  // Texts of people only ever become text nodes: nothing here reads them as HTML.
  function make(tag, kind, text) {
    const node = document.createElement(tag);
    if (kind) node.className = kind;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  const rows = data.rows.map((row, order) => ({
    ...row,
    order,
    change: row.after - row.before,
    size: Math.abs(row.after - row.before),
    audio: data.audio[order],
    haystack: [row.id, row.speaker, row.texts.reference, row.texts.baseline, row.texts.tuned].join("\n").toLowerCase(),
  }));

  const SHOWN = {
    all: () => true,
    changed: (row) => row.changed,
    better: (row) => row.change < 0,
    worse: (row) => row.change > 0,
    wrong: (row) => row.after > 0,
    audio: (row) => row.audio !== undefined,
  };

  function compare(key, direction) {
    const sign = direction === "desc" ? -1 : 1;
    return (a, b) => {
      const [x, y] = [a[key], b[key]];
      if (x === null || y === null) return (x === null) - (y === null) || a.order - b.order;
      const order = typeof x === "string" ? x.localeCompare(y, undefined, { numeric: true }) : x - y;
      return sign * order || b.size - a.size || b.after - a.after || a.order - b.order;
    };
  }

  function visible() {
    const words = controls.find.value.toLowerCase().split(/\s+/).filter(Boolean);
    const [key, direction] = controls.sort.value.split(":");
    return rows
      .filter((row) => SHOWN[controls.show.value](row))
      .filter((row) => !controls.set.value || row.set === controls.set.value)
      .filter((row) => !controls.speaker.value || row.speaker === controls.speaker.value)
      .filter((row) => words.every((word) => row.haystack.includes(word)))
      .sort(compare(key, direction));
  }

  function changeCell(row) {
    const kind = row.change < 0 ? "better" : row.change > 0 ? "worse" : "same";
    const mark = { better: "▼ −", worse: "▲ +", same: row.changed ? "↔ " : "= " }[kind];
    const cell = make("td", "");
    cell.append(make("span", kind, mark + row.size));
    return cell;
  }

  function summary(row) {
    const line = make("tr", "u");
    line.dataset.id = row.id;
    const button = make("button", "expand", "▸");
    button.type = "button";
    button.setAttribute("aria-label", `Show ${row.id}`);
    button.setAttribute("aria-expanded", "false");
    const first = make("td", "");
    first.append(button);
    line.append(first, changeCell(row));
    for (const text of [`${row.before} → ${row.after} of ${row.words}`, data.sets[row.set], row.speaker ?? "unknown", row.seconds.toFixed(1), row.texts.reference]) {
      const cell = make("td", "", text);
      cell.title = text;
      line.append(cell);
    }
    line.addEventListener("click", () => toggle(row, line, button));
    return line;
  }

  function toggle(row, line, button) {
    const opened = !open.has(row.order);
    button.setAttribute("aria-expanded", String(opened));
    button.textContent = opened ? "▾" : "▸";
    line.classList.toggle("open", opened);
    if (opened) {
      open.add(row.order);
      line.after(detail(row));
    } else {
      open.delete(row.order);
      line.nextElementSibling.remove();
    }
  }

  function word(kind, symbol, text, title) {
    const node = make("span", `w ${kind}`, `${symbol} ${text}`);
    node.title = title;
    return node;
  }

  function hypothesis(diff) {
    const line = make("dd", "");
    if (!diff.some(([operation]) => operation !== "d")) line.append(make("em", "", "(nothing) "));
    for (const [operation, ref, hyp] of diff) {
      if (operation === "=") line.append(hyp, " ");
      else line.append(word(KINDS[operation], SYMBOLS[operation], hyp ?? ref, operation === "s" ? `${NAMES.s} ${ref}` : NAMES[operation]), " ");
    }
    return line;
  }

  function reference(diffs) {
    const [before, after] = diffs.map((diff) => diff.filter(([operation]) => operation !== "i"));
    const line = make("dd", "");
    before.forEach(([operation, ref], index) => {
      const [was, is] = [operation === "=", after[index][0] === "="];
      if (was && is) line.append(ref, " ");
      else if (is) line.append(word("fixed", "✓", ref, "wrong before, right now"), " ");
      else if (was) line.append(word("broken", "✗", ref, "right before, wrong now"), " ");
      else line.append(word("still", "•", ref, "wrong before and now"), " ");
    });
    return line;
  }

  function detail(row) {
    const line = make("tr", "detail");
    const cell = make("td", "");
    cell.colSpan = 7;
    const list = make("dl", "diff");
    list.append(make("dt", "", "Reference"), reference(row.diffs));
    list.append(make("dt", "", "Baseline"), hypothesis(row.diffs[0]));
    list.append(make("dt", "", "Tuned"), hypothesis(row.diffs[1]));
    const meta = make("div", "meta note");
    if (row.audio !== undefined) {
      const player = make("audio", "");
      player.controls = true;
      player.preload = "metadata";
      player.src = row.audio;
      meta.append(player);
    } else {
      meta.append(make("span", "", "No player for this utterance."));
    }
    meta.append(make("code", "", row.id), make("span", "", `${data.sets[row.set]}, ${row.speaker ?? "speaker unknown"}, ${row.seconds.toFixed(1)} s`));
    const written = make("details", "");
    written.append(make("summary", "", "As written"));
    const texts = make("dl", "diff");
    for (const name of ["reference", "baseline", "tuned"]) {
      texts.append(make("dt", "", name[0].toUpperCase() + name.slice(1)), make("dd", "as-written", row.texts[name] || "(nothing)"));
    }
    written.append(texts);
    cell.append(list, meta, written);
    line.append(cell);
    return line;
  }

  function render() {
    found = visible();
    open.clear();
    body.replaceChildren(...found.slice(0, PAGE_ROWS).map(summary));
    numShown = Math.min(found.length, PAGE_ROWS);
    const improved = found.filter((row) => row.change < 0).length;
    const worsened = found.filter((row) => row.change > 0).length;
    byId("count").textContent = `${found.length} of ${rows.length} utterances: ${improved} with fewer errors, ${worsened} with more`;
    offerMore();
    const [key, direction] = controls.sort.value.split(":");
    for (const button of document.querySelectorAll("#table th button")) {
      const head = button.parentElement;
      if (button.dataset.key === key) head.setAttribute("aria-sort", direction === "desc" ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
  }

  function offerMore() {
    const hidden = found.length - numShown;
    byId("more").hidden = hidden === 0;
    byId("more").textContent = `Show ${Math.min(hidden, PAGE_ROWS)} more of ${hidden}`;
  }

  function showMore() {
    body.append(...found.slice(numShown, numShown + PAGE_ROWS).map(summary));
    numShown = Math.min(found.length, numShown + PAGE_ROWS);
    offerMore();
  }

  function sortBy(key) {
    const value = controls.sort.value === `${key}:asc` ? `${key}:desc` : `${key}:asc`;
    if (![...controls.sort.options].some((option) => option.value === value)) {
      const [name, direction] = value.split(":");
      controls.sort.append(new Option(`by ${name}, ${direction === "asc" ? "rising" : "falling"}`, value));
    }
    controls.sort.value = value;
    render();
  }

  for (const [name, title] of Object.entries(data.sets)) controls.set.append(new Option(title, name));
  const speakers = [...new Set(rows.map((row) => row.speaker).filter((name) => name !== null))];
  speakers.sort((a, b) => a.localeCompare(b, undefined, { numeric: true }));
  for (const name of speakers) controls.speaker.append(new Option(name, name));
  for (const control of Object.values(controls)) control.addEventListener("input", render);
  for (const button of document.querySelectorAll("#table th button")) button.addEventListener("click", () => sortBy(button.dataset.key));
  byId("more").addEventListener("click", showMore);
  render();
})();
