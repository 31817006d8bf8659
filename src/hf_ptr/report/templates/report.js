"use strict";
(() => {
  const source = document.getElementById("data");
  if (!source) return;
  const data = JSON.parse(source.textContent);
  const PAGE = 50;
  const find = (id) => document.getElementById(id);
  const [low, high] = data.bounds;
  const rows = data.ids.map((id, i) => ({
    id, frames: data.frames[i], seconds: data.seconds ? data.seconds[i] : 0, weight: data.weights[i], score: data.scores[i], reason: data.reasons[i],
    task: data.tasks[data.task[i]], fault: data.faults ? data.faults[i] : "", curve: data.curves[i],
  }));
  const dropped = new Set(data.dropped);
  const state = { key: "weight", up: true, page: 0 };
  const body = find("episodes").tBodies[0];

  const make = (name, text, className) => {
    const element = document.createElement(name);
    if (text !== undefined) element.textContent = text;
    if (className) element.className = className;
    return element;
  };

  function curve(row) {
    const space = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(space, "svg");
    svg.setAttribute("viewBox", "0 0 100 20");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    const line = document.createElementNS(space, "polyline");
    const last = Math.max(row.curve.length - 1, 1);
    line.setAttribute("points", row.curve.map((y, i) => `${(100 * i) / last},${19 - (18 * y) / 99}`).join(" "));
    line.setAttribute("style", "fill: none; stroke: var(--first); stroke-width: 1.5; vector-effect: non-scaling-stroke");
    svg.append(line);
    return svg;
  }

  function chosen() {
    const words = find("find").value.toLowerCase().split(/\s+/).filter(Boolean);
    const only = find("only").checked;
    const kept = rows.filter((row) => {
      const text = `${row.id} ${row.task} ${row.reason} ${row.fault}`.toLowerCase();
      return (!only || dropped.has(row.id)) && words.every((word) => text.includes(word));
    });
    const sign = state.up ? 1 : -1;
    return kept.sort((a, b) => {
      const [x, y] = [a[state.key], b[state.key]];
      return sign * (x < y ? -1 : x > y ? 1 : 0) || a.id - b.id;
    });
  }

  function show() {
    const all = chosen();
    const pages = Math.max(Math.ceil(all.length / PAGE), 1);
    state.page = Math.min(state.page, pages - 1);
    const from = state.page * PAGE;
    const part = all.slice(from, from + PAGE);
    body.replaceChildren(...part.map((row) => {
      const line = make("tr");
      const box = make("input");
      box.type = "checkbox";
      box.checked = dropped.has(row.id);
      box.setAttribute("aria-label", `drop episode ${row.id}`);
      box.addEventListener("change", () => {
        if (box.checked) dropped.add(row.id); else dropped.delete(row.id);
        showDropped();
      });
      const first = make("td");
      first.append(box);
      const number = make("th", row.id, "number");
      number.scope = "row";
      const along = make("td", undefined, "along");
      along.append(curve(row));
      const length = data.seconds ? row.seconds.toFixed(1) : row.frames;
      line.append(first, number, make("td", row.weight.toFixed(2), "number"), along, make("td", row.reason, "of-task"));
      if (data.faults) line.append(make("td", row.fault));
      line.append(make("td", row.score.toFixed(2), "number"), make("td", length, "number"), make("td", row.task, "of-task"));
      return line;
    }));
    find("shown").textContent = all.length
      ? `${from + 1} to ${from + part.length} of ${all.length} episodes` : "no matching episodes";
    find("before").disabled = state.page === 0;
    find("after").disabled = state.page >= pages - 1;
  }

  function showDropped() {
    const ids = [...dropped].sort((a, b) => a - b);
    find("list").value = ids.join(", ");
    find("command").value = data.command[0] + ids.join(", ") + data.command[1];
    find("count").textContent = `${ids.length} of ${rows.length} episodes`;
  }

  for (const button of document.querySelectorAll("#episodes thead button")) {
    button.addEventListener("click", () => {
      const key = button.dataset.key;
      state.up = state.key === key ? !state.up : true;
      state.key = key;
      state.page = 0;
      for (const head of document.querySelectorAll("#episodes thead th[aria-sort]")) head.setAttribute("aria-sort", "none");
      button.parentElement.setAttribute("aria-sort", state.up ? "ascending" : "descending");
      show();
    });
  }
  find("find").addEventListener("input", () => { state.page = 0; show(); });
  find("only").addEventListener("change", () => { state.page = 0; show(); });
  find("before").addEventListener("click", () => { state.page -= 1; show(); });
  find("after").addEventListener("click", () => { state.page += 1; show(); });
  find("reset").addEventListener("click", () => {
    const limit = Number(find("threshold").value);
    dropped.clear();
    for (const row of rows) if (row.weight < limit) dropped.add(row.id);
    showDropped();
    show();
  });
  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.addEventListener("click", async () => {
      const area = find(button.dataset.copy);
      try {
        await navigator.clipboard.writeText(area.value);
      } catch {
        // A page that is opened as a file may not have the clipboard; the selection can be copied by hand.
        area.select();
        document.execCommand("copy");
      }
      find("status").textContent = "Copied.";
    });
  }
  find("download").addEventListener("click", () => {
    const link = make("a");
    const ids = [...dropped].sort((a, b) => a - b);
    link.href = URL.createObjectURL(new Blob([`${ids.join("\n")}\n`], { type: "text/plain" }));
    link.download = "episodes-to-drop.txt";
    link.click();
    URL.revokeObjectURL(link.href);
    find("status").textContent = "Downloaded.";
  });
  for (const id of ["controls", "episodes", "pages", "cut", "list-buttons", "command-buttons"]) find(id).hidden = false;
  show();
})();
